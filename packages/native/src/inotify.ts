/**
 * The kernel's own file events, which are more precise than Node's watcher: each creation, write,
 * rename, removal and change of mode is reported by itself.
 *
 * The descriptor is blocking and is meant to be read by a separate process that copies it into a
 * pipe; `parseInotify` parses those bytes.
 */
import { type DiskPath, terminated } from "./disk-path.ts";
import { check, lastErrno, libc, systemError } from "./libc.ts";

/** Event and mask bits of inotify(7). */
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
  /** The watch is gone: it was removed, or the watched file was. */
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

/** One event. */
export interface InotifyEvent {
  /** The number that `addInotifyWatch` returned; -1 when the queue overflowed. */
  readonly watch: number;
  readonly mask: number;
  /** Name inside the watched folder, as it is on disk; empty for the folder itself. */
  readonly name: Buffer;
}

/**
 * Opens an inotify descriptor, which the caller closes.
 * @throws system error EMFILE when the user has too many.
 */
export function openInotify(): number {
  return check(inotifyInit(closeOnExec), "inotify_init1");
}

/**
 * Watches a path and returns the number of the watch; the same folder gives the same number again.
 * Runs in Node's thread pool, because the path may lead over a network mount.
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

/** Removes a watch. Removing one that is already gone succeeds. */
export function removeInotifyWatch(fd: number, watch: number): void {
  inotifyRemoveWatch(fd, watch);
}

/** Parses the whole events at the start of `bytes`; returns them and the bytes left over. */
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
