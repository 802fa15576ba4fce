/**
 * What a VM's process is on the host when the daemon is root: a user of its own, without a capability
 * from its first instruction on, in a file system that holds nothing but what it needs, and in a control
 * group.
 *
 * Files are shown to it at their own paths, everything read-only but its run's folder and its top disk
 * layer. Those that it reads are readable to all: the folders that hold them are the owner's alone,
 * so nobody comes that far but a process to which they are shown.
 *
 * Once it runs it writes into its run's folder only. What belongs elsewhere is moved there by the
 * daemon. A disk layer that comes later is linked into it: the process's own if it is to be written
 * to, and the owner's if it is sealed, which nobody else can write to whatever he does to the link.
 */
import {
  chmodSync,
  chownSync,
  lchownSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { type ViewEntry, hideFrom, withView } from "@torpor/native";
import { TorporError } from "@torpor/std";
import type { VmHandle, VmSpec } from "../driver.ts";
import { type ClaimedUserId, type UserIdRange, claimUserId } from "../user-ids.ts";
import { type CgroupSupport, confineInCgroup, removeCgroup } from "../cgroup.ts";
import type { QemuProgram } from "./program.ts";

const bytesPerMiB = 1024 * 1024;
/**
 * LIMITS of a process besides its guest's memory: translated code, QEMU's own heap, and pages of its
 * files, which are given back first.
 */
const overheadMiB = 512;
/** vCPUs, and up to 64 threads for files. */
const taskCount = 128;
/** The host's memory is short: a sandbox goes before the daemon, and before programs that are not ours. */
const outOfMemoryScore = "500";
/** The view is mounted on it; on the host it stays empty. */
const rootFolder = "root";
const kvmDevice = "/dev/kvm";

export interface ConfinementOptions {
  readonly userIds: UserIdRange;
  readonly cgroups: CgroupSupport;
}

/** A process that is about to be started. */
export interface Confinement extends Disposable {
  readonly userId: number;
  readonly lockFd: number;
  /** Runs a synchronous function that starts the process. */
  start<T>(work: () => T): T;
  /** The path of its control group, or undefined without one. */
  limit(pid: number): string | undefined;
}

export function confine(
  spec: VmSpec,
  program: QemuProgram,
  needsKvm: boolean,
  { userIds, cgroups }: ConfinementOptions,
): Confinement {
  using undo = new DisposableStack();
  const claimed: ClaimedUserId = undo.use(claimUserId(userIds));
  const { userId, lockFd } = claimed;
  const root = join(spec.runFolder, rootFolder);
  mkdirSync(root, { recursive: true, mode: 0o755 });
  const device = needsKvm ? [{ path: kvmDevice, deviceOwner: userId }] : [];
  const entries = [...viewOf(spec, program), ...device];
  for (const { path, isOurs } of program.folders) if (isOurs) letRead(path);
  for (const path of readOnlyFiles(spec)) letRead(path);
  for (const path of writableFiles(spec)) chownSync(path, userId, userId);
  // A start that is repeated finds what the one before it left, which was another user's.
  for (const name of readdirSync(spec.runFolder)) {
    lchownSync(join(spec.runFolder, name), userId, userId);
  }
  const held = undo.move();
  return {
    userId,
    lockFd,
    start: (work) => withView(root, entries, work),
    limit: (pid) => {
      writeFileSync(`/proc/${pid}/oom_score_adj`, outOfMemoryScore);
      if (cgroups.kind === "unusable") return undefined;
      const path = join(cgroups.parent, `${spec.name}.${userId}`);
      const memoryBytes = (spec.machine.memoryMiB + overheadMiB) * bytesPerMiB;
      confineInCgroup(path, pid, { memoryBytes, taskCount });
      return path;
    },
    [Symbol.dispose]: () => held.dispose(),
  };
}

/** What is left of it when the process has ended. */
export function endConfinement({ cgroup }: Pick<VmHandle, "cgroup">): void {
  if (cgroup !== undefined) removeCgroup(cgroup);
}

/** Where a confined process can write a file that shall be at `path`; `bringHome` puts it there. */
export function pathWithin({ userId, runFolder }: VmHandle, path: string): string {
  return userId === undefined ? path : join(runFolder, basename(path));
}

/**
 * From here on the file is the owner's, at its place.
 * @throws vmm.failed when it is no plain file: a process that somebody took over may leave anything.
 */
export function bringHome(handle: VmHandle, path: string): void {
  const within = pathWithin(handle, path);
  if (within === path) return;
  // ORDER: looked at only where the process cannot put another in its place.
  renameSync(within, path);
  const stat = lstatSync(path);
  if (!stat.isFile() || stat.nlink !== 1) {
    unlinkSync(path);
    throw new TorporError("vmm.failed", `QEMU left something else than a file for ${path}`);
  }
  chownSync(path, 0, 0);
  chmodSync(path, 0o600);
}

/** Lets a process that runs already write this file; returns the path by which it finds it. */
export function handOver(handle: VmHandle, path: string): string {
  const within = pathWithin(handle, path);
  if (handle.userId === undefined) return within;
  chownSync(path, handle.userId, handle.userId);
  linkSync(path, within);
  return within;
}

/** Lets a process that runs already read this sealed file; returns the path by which it finds it. */
export function show(handle: VmHandle, path: string): string {
  const within = pathWithin(handle, path);
  if (within === path) return within;
  letRead(path);
  // Of an attempt before.
  if (!isSameFile(within, path)) linkSync(path, within);
  return within;
}

/** A process has no need of this file any more, and shall not keep what is removed on the host. */
export function takeAway(handle: VmHandle, path: string): void {
  const within = pathWithin(handle, path);
  if (within === path) return;
  if (isSameFile(within, path)) unlinkSync(within);
  hideFrom(handle.pid, path);
}

function isSameFile(one: string, other: string): boolean {
  const [a, b] = [one, other].map((path) => lstatSync(path, { throwIfNoEntry: false }));
  return a !== undefined && a.ino === b?.ino && a.dev === b.dev;
}

function viewOf(spec: VmSpec, program: QemuProgram): readonly ViewEntry[] {
  return [
    ...program.folders.map(({ path }) => ({ path, executable: true })),
    ...readOnlyFiles(spec).map((path) => ({ path })),
    ...writableFiles(spec).map((path) => ({ path, writable: true })),
  ];
}

function readOnlyFiles({ machine, disk, memoryPath, readsLater = [] }: VmSpec): readonly string[] {
  const sealed = disk.slice(0, -1).map(({ path }) => path);
  const { kernelPath, initramfsPath } = machine;
  return [...new Set([kernelPath, initramfsPath, memoryPath, ...sealed, ...readsLater])];
}

function writableFiles({ disk, runFolder }: VmSpec): readonly string[] {
  return [...disk.slice(-1).map(({ path }) => path), runFolder];
}

/** With all that is in a folder of ours. Each time: set-up may have put a new one in its place. */
export function letRead(path: string): void {
  const stat = lstatSync(path);
  // What an earlier run wrote is sealed, and nobody's any more.
  if (stat.uid !== 0) chownSync(path, 0, 0);
  const others = (stat.mode & 0o100) === 0 ? 0o004 : 0o005;
  if ((stat.mode & others) !== others) chmodSync(path, (stat.mode & 0o7777) | others);
  if (!stat.isDirectory()) return;
  for (const name of readdirSync(path)) letRead(join(path, name));
}
