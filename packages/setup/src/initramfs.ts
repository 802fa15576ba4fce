/**
 * The first file system of the guest: busybox, a few modules and a script that finds the disk.
 *
 * It is a cpio archive in the "newc" format, written here. It is not compressed: under software
 * emulation, unpacking costs more than reading a few more megabytes. Nothing in it may hang: the
 * script prints one line and powers off when anything fails.
 */
import { readFile, writeFile } from "node:fs/promises";
import { basename } from "node:path";
import { assert } from "@torpor/std";

/** An entry of the archive; paths are relative, and a folder precedes its content. */
export type CpioEntry =
  | { readonly kind: "dir"; readonly path: string; readonly mode: number }
  | { readonly kind: "file"; readonly path: string; readonly mode: number; readonly data: Buffer }
  | { readonly kind: "symlink"; readonly path: string; readonly target: string }
  | {
      readonly kind: "charDevice";
      readonly path: string;
      readonly mode: number;
      readonly major: number;
      readonly minor: number;
    };

/** File type bits of `st_mode`. */
const typeBits = {
  dir: 0o040000,
  file: 0o100000,
  symlink: 0o120000,
  charDevice: 0o020000,
} as const;
const symlinkMode = 0o777;
const trailerName = "TRAILER!!!";
/** QEMU and the kernel require an archive of whole blocks of this size. */
const archiveBlockBytes = 512;

/** Writes a newc archive; the same entries always give the same bytes. */
export function writeNewc(entries: readonly CpioEntry[]): Buffer {
  const parts: Buffer[] = [];
  for (const [index, entry] of entries.entries()) {
    assert(!entry.path.startsWith("/"), `${entry.path} must be relative`);
    parts.push(...newcEntry(entry, index + 1));
  }
  parts.push(...newcHeader({ name: trailerName, inode: 0, mode: 0, dataBytes: 0 }));
  const bytes = parts.reduce((sum, part) => sum + part.length, 0);
  parts.push(padding(bytes, archiveBlockBytes));
  return Buffer.concat(parts);
}

function newcEntry(entry: CpioEntry, inode: number): readonly Buffer[] {
  const data =
    entry.kind === "file"
      ? entry.data
      : entry.kind === "symlink"
        ? Buffer.from(entry.target)
        : Buffer.alloc(0);
  const mode = typeBits[entry.kind] | (entry.kind === "symlink" ? symlinkMode : entry.mode);
  const device =
    entry.kind === "charDevice" ? { major: entry.major, minor: entry.minor } : undefined;
  const head = newcHeader({ name: entry.path, inode, mode, dataBytes: data.length, device });
  return [...head, data, padding(data.length, 4)];
}

function newcHeader(fields: {
  readonly name: string;
  readonly inode: number;
  readonly mode: number;
  readonly dataBytes: number;
  readonly device?: { readonly major: number; readonly minor: number } | undefined;
}): readonly Buffer[] {
  const name = Buffer.from(`${fields.name}\0`);
  const numbers = [
    fields.inode,
    fields.mode,
    0, // uid
    0, // gid
    1, // links
    0, // mtime
    fields.dataBytes,
    0, // major of the device it is on
    0, // minor of it
    fields.device?.major ?? 0,
    fields.device?.minor ?? 0,
    name.length,
    0, // checksum, unused in this format
  ];
  const hex = numbers.map((value) => value.toString(16).padStart(8, "0")).join("");
  const head = Buffer.concat([Buffer.from(`070701${hex}`), name]);
  return [head, padding(head.length, 4)];
}

function padding(bytes: number, multiple: number): Buffer {
  return Buffer.alloc((multiple - (bytes % multiple)) % multiple);
}

/** The path of the guest's own init; the initramfs hands over to it. */
export const guestInitPath = "/sbin/torpor-init";

/**
 * LIMIT: how long the disk may take to appear. It appears at once unless the machine is starved.
 */
const diskWaitMsMax = 10_000;
const diskPollMs = 20;

/** The script the kernel starts. `modules` are file names in /modules, in load order. */
export function initramfsInit(modules: readonly string[]): string {
  // The shell finds applets by their bare names only while /proc is mounted.
  return `#!/bin/busybox sh
die() {
  echo "torpor-initramfs: $1" >/dev/console
  /bin/busybox poweroff -f
  /bin/busybox reboot -f
}
/bin/busybox mount -t proc -o nosuid,nodev,noexec proc /proc || die "/proc cannot be mounted"
mount -t devtmpfs -o nosuid dev /dev || die "/dev cannot be mounted"
mount -t sysfs -o nosuid,nodev,noexec sys /sys || die "/sys cannot be mounted"
for module in ${modules.join(" ")}; do
  insmod "/modules/$module" || die "the module $module cannot be loaded"
done
tries=0
while [ ! -b /dev/vda ]; do
  [ $tries -lt ${diskWaitMsMax / diskPollMs} ] || die "the disk /dev/vda did not appear"
  tries=$((tries + 1))
  usleep ${diskPollMs * 1_000}
done
mount -t ext4 -o rw,noatime /dev/vda /newroot || die "the disk cannot be mounted"
[ -x /newroot${guestInitPath} ] || die "the disk has no ${guestInitPath}"
for dir in dev sys proc; do
  /bin/busybox mount -o move /$dir /newroot/$dir || die "/$dir cannot be moved"
done
exec /bin/busybox switch_root /newroot ${guestInitPath}
`;
}

/** Contents of an initramfs. */
export interface InitramfsOptions {
  readonly busyboxPath: string;
  /** In load order. */
  readonly modulePaths: readonly string[];
}

/** Writes the initramfs to `outPath`. */
export async function buildInitramfs(outPath: string, options: InitramfsOptions): Promise<void> {
  const dir = (path: string): CpioEntry => ({ kind: "dir", path, mode: 0o755 });
  const names = options.modulePaths.map((path) => basename(path));
  const modules: CpioEntry[] = [];
  for (const path of options.modulePaths) {
    const data = await readFile(path);
    modules.push({ kind: "file", path: `modules/${basename(path)}`, mode: 0o644, data });
  }
  const busybox = await readFile(options.busyboxPath);
  const archive = writeNewc([
    ...["bin", "dev", "proc", "sys", "newroot", "modules"].map(dir),
    { kind: "charDevice", path: "dev/console", mode: 0o600, major: 5, minor: 1 },
    { kind: "file", path: "bin/busybox", mode: 0o755, data: busybox },
    { kind: "file", path: "init", mode: 0o755, data: Buffer.from(initramfsInit(names)) },
    ...modules,
  ]);
  await writeFile(outPath, archive);
}
