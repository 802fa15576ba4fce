/**
 * User ids that exist for one VM process each, and nowhere else on the host.
 *
 * File locks, one for each id, show which ids are taken: a VM's process holds its own from its
 * start to its end, so no daemon has to remember it, and no two daemons take the same id.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type FileLock, tryLockFile } from "@torpor/native";
import { TorporError } from "@torpor/std";

const locksFolder = "/run/torpor/users";

/** The user ids from `first` on. */
export interface UserIdRange {
  readonly first: number;
  readonly count: number;
}

/**
 * Above the ids that systemd gives to containers, and below 2^31, where Linux's signed numbers end.
 */
export const defaultUserIds: UserIdRange = { first: 1_900_000_000, count: 10_000 };

/**
 * A user id that nobody else takes until the claim is disposed of and every copy of `lockFd` is
 * closed.
 */
export interface ClaimedUserId extends Disposable {
  readonly userId: number;
  /** The VM's process inherits it, and holds the claim from then on. */
  readonly lockFd: number;
}

/**
 * Where the next search begins: an id that was just released may still own something for a moment.
 */
let next = process.pid;

/** Claims a free user id. @throws vmm.failed if all are taken */
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
