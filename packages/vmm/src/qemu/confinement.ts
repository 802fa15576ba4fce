/**
 * The confinement of a VM's process when the daemon is root: a user of its own, without a
 * capability from its first instruction on, a file system that holds nothing but what it needs, and
 * a control group.
 *
 * The process sees files at their own paths, everything read-only but its run's folder and its top
 * disk layer. The files that it reads are readable to all users, but the folders that hold them are
 * the owner's alone, so only a process to which they are shown can reach them.
 *
 * Once it runs it writes only into its run's folder. The daemon moves what belongs elsewhere to its
 * place. A disk layer that comes later is linked into the folder: a layer that the process is to
 * write belongs to the process, and a sealed one to the owner, so that nobody else can write to it,
 * whatever the process does to the link.
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
 * LIMIT: memory of a process besides its guest's: translated code, QEMU's own heap, and pages of
 * its files, which are reclaimed first.
 */
const overheadMiB = 512;
/** LIMIT: tasks of a process: vCPUs, and up to 64 threads for files. */
const taskCount = 128;
/**
 * When the host's memory is short, a sandbox is killed before the daemon and before programs that
 * are not ours.
 */
const outOfMemoryScore = "500";
/** The view is mounted on it; on the host it stays empty. */
const rootFolder = "root";
const kvmDevice = "/dev/kvm";

/** The user ids that confined processes may take, and where their control groups are made. */
export interface ConfinementOptions {
  readonly userIds: UserIdRange;
  readonly cgroups: CgroupSupport;
}

/** The confinement of a process that is about to be started. */
export interface Confinement extends Disposable {
  readonly userId: number;
  /** The lock that holds the user id; the process inherits it. */
  readonly lockFd: number;
  /** Runs a synchronous function that starts the process. */
  start<T>(work: () => T): T;
  /**
   * Limits the started process. Returns the path of its control group, or undefined without one.
   * @throws a system error
   */
  limit(pid: number): string | undefined;
}

/**
 * Prepares the user, the files and the view of a VM's process.
 * @throws vmm.failed if no user id is free
 */
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
  // A repeated start finds what the one before it left, which belonged to another user.
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

/** Removes what is left of a confinement when its process has ended. */
export function endConfinement({ cgroup }: Pick<VmHandle, "cgroup">): void {
  if (cgroup !== undefined) removeCgroup(cgroup);
}

/**
 * Where a confined process can write a file that is meant for `path`; `bringHome` moves it there.
 */
export function pathWithin({ userId, runFolder }: VmHandle, path: string): string {
  return userId === undefined ? path : join(runFolder, basename(path));
}

/**
 * Moves a file that the process wrote to its place. From here on it belongs to the owner.
 * @throws vmm.failed if it is no plain file: a process that an attacker took over may leave
 * anything.
 */
export function bringHome(handle: VmHandle, path: string): void {
  const within = pathWithin(handle, path);
  if (within === path) return;
  // ORDER: check the file only where the process cannot replace it.
  renameSync(within, path);
  const stat = lstatSync(path);
  if (!stat.isFile() || stat.nlink !== 1) {
    unlinkSync(path);
    throw new TorporError("vmm.failed", `QEMU left something else than a file for ${path}`);
  }
  chownSync(path, 0, 0);
  chmodSync(path, 0o600);
}

/** Lets a running process write this file; returns the path by which it finds it. */
export function handOver(handle: VmHandle, path: string): string {
  const within = pathWithin(handle, path);
  if (handle.userId === undefined) return within;
  chownSync(path, handle.userId, handle.userId);
  linkSync(path, within);
  return within;
}

/** Lets a running process read this sealed file; returns the path by which it finds it. */
export function show(handle: VmHandle, path: string): string {
  const within = pathWithin(handle, path);
  if (within === path) return within;
  letRead(path);
  // An earlier attempt may have linked it.
  if (!isSameFile(within, path)) linkSync(path, within);
  return within;
}

/**
 * Takes a file from a process that does not need it any more, so that removing it on the host frees
 * its space.
 */
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

/**
 * Makes a file, or a folder of ours with all its files, readable. Repeated each time: set-up may
 * have replaced the folder.
 */
export function letRead(path: string): void {
  const stat = lstatSync(path);
  // A file that an earlier run wrote is sealed, and no VM's user may own it any longer.
  if (stat.uid !== 0) chownSync(path, 0, 0);
  const others = (stat.mode & 0o100) === 0 ? 0o004 : 0o005;
  if ((stat.mode & others) !== others) chmodSync(path, (stat.mode & 0o7777) | others);
  if (!stat.isDirectory()) return;
  for (const name of readdirSync(path)) letRead(join(path, name));
}
