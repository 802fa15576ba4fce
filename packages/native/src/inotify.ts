/**
 * The kernel's own file events, which say more than Node's watcher: what was created, written,
 * renamed, removed or had its mode changed, each by itself.
 *
 * The descriptor is blocking and is meant to be read by a process of its own that copies it into a
 * pipe; `parseInotify` takes those bytes apart.
 */
import { type DiskPath, terminated } from "./disk-path.ts";
import { check, lastErrno, libc, systemError } from "./libc.ts";

export const inotify = {
  modify: 0x2,
  attributes: 0x4,
  movedFrom: 0x40,
  movedTo: 0x80,
  create: 0x100,
  delete: 0x200,
  deleteSelf: 0x400,
  moveSelf: 0x800,
  overflow: 0x4000,
  /** The watch is gone: it was removed, or what it watched was. */
  ignored: 0x8000,
  onlyFolders: 0x100_0000,
  isFolder: 0x4000_0000,
} as const;

const headerBytes = 16;
/** From fcntl.h; Node does not list it. */
const closeOnExec = 0o2_000_000;

const inotifyInit = libc.func("int inotify_init1(int flags)") as (flags: number) => number;
const inotifyAddWatch = libc.func(
  "int inotify_add_watch(int fd, const char *path, uint32_t mask)",
) as unknown as {
  async(
    fd: number,
    path: DiskPath,
    mask: number,
    done: (error: Error | null, watch: number) => void,
  ): void;
};
const inotifyRemoveWatch = libc.func("int inotify_rm_watch(int fd, int watch)") as (
  fd: number,
  watch: number,
) => number;

export interface InotifyEvent {
  /** Which watch: the number `addInotifyWatch` returned; -1 when the queue overflowed. */
  readonly watch: number;
  readonly mask: number;
  /** Name inside the watched folder, as it is on disk; empty for the folder itself. */
  readonly name: Buffer;
}

/** @throws system error EMFILE when the user has too many. */
export function openInotify(): number {
  return check(inotifyInit(closeOnExec), "inotify_init1");
}

/**
 * The same folder gives the same number again. Runs in Node's thread pool, because the way to a folder may
 * lead over a network mount.
 * @throws system error ENOENT, ENOTDIR, ENOSPC when the user has too many watches.
 */
export async function addInotifyWatch(fd: number, path: DiskPath, mask: number): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  inotifyAddWatch.async(fd, terminated(path), mask, (error, watch) => {
    if (error !== null) reject(error);
    else if (watch === -1) reject(systemError(lastErrno(), "inotify_add_watch"));
    else resolve(watch);
  });
  return await promise;
}

/** Removing one that is gone already is a success. */
export function removeInotifyWatch(fd: number, watch: number): void {
  inotifyRemoveWatch(fd, watch);
}

/** Splits whole events off the front of `bytes`; returns them and what is left over. */
export function parseInotify(bytes: Buffer): { events: InotifyEvent[]; rest: Buffer } {
  const events: InotifyEvent[] = [];
  let at = 0;
  while (at + headerBytes <= bytes.length) {
    const nameBytes = bytes.readUInt32LE(at + 12);
    const end = at + headerBytes + nameBytes;
    if (end > bytes.length) break;
    const padded = bytes.subarray(at + headerBytes, end);
    const zero = padded.indexOf(0);
    events.push({
      watch: bytes.readInt32LE(at),
      mask: bytes.readUInt32LE(at + 4),
      name: Buffer.from(zero === -1 ? padded : padded.subarray(0, zero)),
    });
    at = end;
  }
  return { events, rest: bytes.subarray(at) };
}
