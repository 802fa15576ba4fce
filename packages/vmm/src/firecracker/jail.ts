/**
 * The jail of one VM: the file system that Firecracker's own jailer makes, and how the jailer is
 * started.
 *
 * The jailer changes into a folder, makes the devices there that Firecracker needs, and becomes the
 * program, as a user of its own without a capability and under Firecracker's seccomp filters. The
 * other files that the VM needs lie in that folder as mounts, each at its own path, so that paths
 * mean the same inside and outside; the mounts are in the mount namespace of the disk's process,
 * and gone with it. Everything is read-only but the disk and one folder of the run.
 */
import { type ChildProcess, spawn } from "node:child_process";
import {
  chmodSync,
  chownSync,
  closeSync,
  mkdirSync,
  openSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { type PrivateMount, inMountsOf } from "@torpor/native";
import type { NetworkAttachment, VmSpec } from "../driver.ts";
import { letRead } from "../qemu/confinement.ts";
import { runFiles } from "../run-files.ts";
import type { FirecrackerProgram } from "./program.ts";
import { diskInJail } from "./requests.ts";
import { runPaths } from "./run-files.ts";

/** LIMIT: characters that the jailer accepts for the id of a VM. */
const idLengthMax = 64;

/** The inputs of the jailer and of the disk's process. */
export interface Jail {
  /** The empty file over which the disk is mounted. */
  readonly diskTarget: string;
  readonly mounts: readonly PrivateMount[];
  readonly arguments: readonly string[];
}

/**
 * Prepares the folders and files of a jail.
 * @param isBoot Whether the VM starts from a kernel, and not from a memory file.
 */
export function makeJail(
  spec: VmSpec,
  program: FirecrackerProgram,
  userId: number,
  isBoot: boolean,
): Jail {
  const paths = runPaths(spec.runFolder);
  const id = `torpor-${spec.name.replaceAll(/[^A-Za-z0-9]/g, "-")}`.slice(0, idLengthMax);
  const root = join(paths.jail, basename(program.firecracker), id, "root");
  // A repeated start finds what the one before it left, which belonged to another user.
  for (const path of [paths.jail, paths.vm]) rmSync(path, { recursive: true, force: true });
  makeFolder(root);
  mkdirSync(paths.vm, { mode: 0o700 });
  writeFileSync(paths.log, "", { mode: 0o600 });
  for (const path of [paths.log, paths.vm]) chownSync(path, userId, userId);
  const { kernelPath, initramfsPath } = spec.machine;
  const memory = isBoot || spec.startPager !== undefined ? [] : [spec.memoryPath, paths.memory];
  // If it is used at all, it is filled before Firecracker opens it.
  if (memory.length > 0) writeFileSync(paths.memory, "", { mode: 0o600 });
  const readOnly = isBoot ? [kernelPath, initramfsPath] : [...memory, ...(spec.readsLater ?? [])];
  for (const path of readOnly) letRead(path);
  const mounts = [
    ...[...new Set(readOnly)].map((source) => ({ source, target: place(root, source) })),
    { source: paths.vm, target: place(root, paths.vm), writable: true },
  ];
  const diskTarget = join(root, diskInJail);
  writeFileSync(diskTarget, "");
  return { diskTarget, mounts, arguments: jailerArguments(program, id, userId, spec.runFolder) };
}

/** The jailer's command line. */
export function jailerArguments(
  program: FirecrackerProgram,
  id: string,
  userId: number,
  runFolder: string,
): readonly string[] {
  const paths = runPaths(runFolder);
  return [
    ...["--id", id],
    ...["--exec-file", program.firecracker],
    ...["--uid", String(userId), "--gid", String(userId)],
    ...["--chroot-base-dir", paths.jail],
    "--",
    ...["--api-sock", paths.control],
    ...["--log-path", paths.log, "--level", "Warning"],
  ];
}

/** Starts the jailer in the mounts of the disk's process and in the VM's network. */
export function spawnJailer(
  program: FirecrackerProgram,
  jail: Jail,
  { runFolder, diskPid }: { readonly runFolder: string; readonly diskPid: number },
  network: Extract<NetworkAttachment, { kind: "tap" }>,
): ChildProcess {
  using files = new DisposableStack();
  const adopt = (name: string): number =>
    files.adopt(openSync(join(runFolder, name), "a", 0o600), closeSync);
  // The guest's serial port is Firecracker's standard output.
  const stdio = ["ignore", adopt(runFiles.console), adopt(runFiles.log)] as const;
  return network.inNamespace(() =>
    inMountsOf(diskPid, () =>
      spawn(program.jailer, jail.arguments, { detached: true, stdio: [...stdio] }),
    ),
  );
}

/** Makes an empty file or folder, of the same kind as `source`, to mount it on. */
function place(root: string, source: string): string {
  const target = join(root, source);
  if (statSync(source).isDirectory()) makeFolder(target);
  else {
    makeFolder(dirname(target));
    writeFileSync(target, "");
  }
  return target;
}

/** Makes a folder that the jailed user may pass, whatever the umask. */
function makeFolder(path: string): void {
  const made = mkdirSync(path, { recursive: true, mode: 0o755 });
  if (made === undefined) return;
  for (let one = path; one.length >= made.length; one = dirname(one)) chmodSync(one, 0o755);
}
