/**
 * A file system that holds nothing but what is named, for one synchronous call and for the processes that
 * are started in it.
 *
 * In a mount namespace of its own (see mount-namespace.ts) the host's file system is gone, and what is
 * named lies where it does on the host, so that paths mean the same here and there. Nothing of it is seen
 * outside, and it ends with its last process.
 *
 * INVARIANT: `withView` is synchronous. An `await` inside it would leak the view into other work.
 */
import { closeSync, fchmodSync, mkdirSync, openSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { check, libc } from "./libc.ts";
import { inMountsOf, inOwnMounts } from "./mount-namespace.ts";
import { bind, mount, mountFlag, umount } from "./mount.ts";

const SYS_PIVOT_ROOT = 155;
const MNT_DETACH = 2;
/** LIMIT: folders and empty files to mount on, of which each takes a page at most. */
const rootOptions = "size=1m,mode=755";

const chdir = libc.func("int chdir(const char *path)") as (path: string) => number;
const syscall = libc.func("long syscall(long number, const char *one, const char *other)") as (
  number: number,
  one: string,
  other: string,
) => number;

export interface ViewEntry {
  /** Of a file or folder; absolute. A folder comes with what is in it, but not with what is mounted there. */
  readonly path: string;
  readonly writable?: boolean;
  readonly executable?: boolean;
  /** For devices, which cannot be used otherwise. */
  readonly device?: boolean;
}

/**
 * @param root An empty folder, on which the view is mounted.
 * @throws system error EPERM without CAP_SYS_ADMIN, ENOENT for an entry that is not there
 */
export function withView<T>(root: string, entries: readonly ViewEntry[], work: () => T): T {
  return inOwnMounts(() => {
    build(root, entries);
    return work();
  });
}

/**
 * Takes a file out of the view that a process has, open or not. One that is not there is taken for gone.
 * @throws system error ENOENT for a process that has ended, EPERM without CAP_SYS_ADMIN
 */
export function hideFrom(pid: number, path: string): void {
  inMountsOf(pid, () => umount(path, MNT_DETACH));
}

function build(root: string, entries: readonly ViewEntry[]): void {
  const { noSetUid, noDevices, readOnly, remount } = mountFlag;
  check(mount("torpor", root, "tmpfs", noSetUid | noDevices, rootOptions), "mount");
  for (const entry of entries) show(root, entry);
  check(mount(null, root, null, remount | noSetUid | noDevices | readOnly, null), "mount");
  check(chdir(root), "chdir");
  check(syscall(SYS_PIVOT_ROOT, ".", "."), "pivot_root");
  check(umount(".", MNT_DETACH), "umount2");
  check(chdir("/"), "chdir");
}

function show(root: string, { path, writable, executable, device }: ViewEntry): void {
  const target = join(root, path);
  if (statSync(path).isDirectory()) {
    makeFolder(target);
  } else {
    makeFolder(dirname(target));
    writeFileSync(target, "");
  }
  const { noSetUid, noDevices, noExecute, readOnly } = mountFlag;
  bind(
    path,
    target,
    noSetUid |
      (device === true ? 0 : noDevices) |
      (executable === true ? 0 : noExecute) |
      (writable === true ? 0 : readOnly),
  );
}

/** Whoever looks may pass, whatever the umask. */
function makeFolder(path: string): void {
  const made = mkdirSync(path, { recursive: true, mode: 0o755 });
  if (made === undefined) return;
  for (let one = path; one.length >= made.length; one = dirname(one)) {
    const fd = openSync(one, "r");
    try {
      fchmodSync(fd, 0o755);
    } finally {
      closeSync(fd);
    }
  }
}
