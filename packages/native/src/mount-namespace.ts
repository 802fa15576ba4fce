/**
 * Mounts that exist for some processes only, and end with the last of them.
 *
 * As with a network namespace (see network-namespace.ts), the calling thread enters a mount
 * namespace, runs a function and returns; processes that the function started stay in the
 * namespace.
 *
 * INVARIANT: all of these are synchronous. An `await` inside them would leak mounts into other
 * work.
 */
import { closeSync, openSync } from "node:fs";
import { check, libc } from "./libc.ts";
import { bind, mount, mountFlag } from "./mount.ts";

const CLONE_FS = 0x200;
const CLONE_NEWNS = 0x2_0000;

const unshare = libc.func("int unshare(int flags)") as (flags: number) => number;
const setns = libc.func("int setns(int fd, int type)") as (fd: number, type: number) => number;
const fchdir = libc.func("int fchdir(int fd)") as (fd: number) => number;

/** A file or folder that is visible at a second path. */
export interface PrivateMount {
  /** A file or folder. */
  readonly source: string;
  /** An existing path of the same kind. */
  readonly target: string;
  readonly writable?: boolean;
}

/**
 * Runs `work` where each source is also visible at its target, which the host itself does not see.
 * @throws a system error
 */
export function withMounts<T>(mounts: readonly PrivateMount[], work: () => T): T {
  return inOwnMounts(() => {
    const { noSetUid, noDevices, noExecute, readOnly } = mountFlag;
    for (const { source, target, writable } of mounts) {
      bind(source, target, noSetUid | noDevices | noExecute | (writable === true ? 0 : readOnly));
    }
    return work();
  });
}

/**
 * Runs `work` with a copy of the current mounts; changes to the copy do not affect the host's. In
 * it the thread has a root and a current folder that no other thread shares.
 * @throws system error EPERM without CAP_SYS_ADMIN
 */
export function inOwnMounts<T>(work: () => T): T {
  const leave = (): number => check(unshare(CLONE_NEWNS), "unshare");
  return awayFromHome(leave, () => {
    const { recursive, private: unshared } = mountFlag;
    check(mount(null, "/", null, recursive | unshared, null), "mount");
    return work();
  });
}

/** Runs `work` with the mounts of a process. @throws system error ENOENT if it has ended */
export function inMountsOf<T>(pid: number, work: () => T): T {
  const fd = openSync(`/proc/${pid}/ns/mnt`, "r");
  try {
    const leave = (): void => {
      // The kernel refuses setns to a thread that shares its root and current folder with others.
      check(unshare(CLONE_FS), "unshare");
      check(setns(fd, CLONE_NEWNS), "setns");
    };
    return awayFromHome(leave, work);
  } finally {
    closeSync(fd);
  }
}

/** Leaves the thread's mount namespace for `work`. If `leave` fails, there is nothing to undo. */
function awayFromHome<T>(leave: () => void, work: () => T): T {
  using undo = new DisposableStack();
  const home = undo.adopt(openSync("/proc/thread-self/ns/mnt", "r"), closeSync);
  const folder = undo.adopt(openSync(".", "r"), closeSync);
  leave();
  undo.defer(() => {
    check(setns(home, CLONE_NEWNS), "setns");
    check(fchdir(folder), "fchdir");
  });
  return work();
}
