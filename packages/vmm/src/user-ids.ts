/**
 * Users that exist for one VM process each, and nowhere else on the host.
 *
 * Which are taken is known by locks on files, one for each: a VM's process holds its own from its
 * start to its end, so that no daemon has to remember, and none of several daemons takes one twice.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type FileLock, tryLockFile } from "@torpor/native";
import { TorporError } from "@torpor/std";

const locksFolder = "/run/torpor/users";

export interface UserIdRange {
  readonly first: number;
  readonly count: number;
}

/** Between what systemd gives to containers and the end of what Linux counts with a sign. */
export const defaultUserIds: UserIdRange = { first: 1_900_000_000, count: 10_000 };

export interface ClaimedUserId extends Disposable {
  readonly userId: number;
  /** The VM's process is given it, and holds the claim from then on. */
  readonly lockFd: number;
}

/** Where the next search begins: one that was just given back may still own something for a moment. */
let next = process.pid;

/** @throws vmm.failed when all are taken */
export function claimUserId({ first, count }: UserIdRange): ClaimedUserId {
  mkdirSync(locksFolder, { recursive: true, mode: 0o700 });
  for (let tried = 0; tried < count; tried += 1) {
    const userId = first + (next++ % count);
    const lock: FileLock | undefined = tryLockFile(join(locksFolder, String(userId)));
    if (lock === undefined) continue;
    return { userId, lockFd: lock.fd, [Symbol.dispose]: () => lock[Symbol.dispose]() };
  }
  throw new TorporError("vmm.failed", `all ${count} user ids for VMs are in use`, {
    effect: "none",
    advice: "Name a larger range with TORPOR_USER_IDS, or remove sandboxes.",
  });
}
