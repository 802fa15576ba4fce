/**
 * The kernel's own file events, which say more than Node's watcher: what was created, written,
 * renamed, removed or had its mode changed, each by itself.
 *
 * The descriptor is blocking and is meant to be read by a process of its own that copies it into a
 * pipe; `parseInotify` takes those bytes apart.
 */
import { check, libc } from "./libc.ts";

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
) as (fd: number, path: string, mask: number) => number;
const inotifyRemoveWatch = libc.func("int inotify_rm_watch(int fd, int watch)") as (
  fd: number,
  watch: number,
) => number;

export interface InotifyEvent {
  /** Which watch: the number `addInotifyWatch` returned; -1 when the queue overflowed. */
  readonly watch: number;
  readonly mask: number;
  /** Name inside the watched folder; empty for the folder itself. */
  readonly name: string;
}

/** @throws system error EMFILE when the user has too many. */
export function openInotify(): number {
  return check(inotifyInit(closeOnExec), "inotify_init1");
}

/**
 * The same folder gives the same number again.
 * @throws system error ENOENT, ENOTDIR, ENOSPC when the user has too many watches.
 */
export function addInotifyWatch(fd: number, path: string, mask: number): number {
  return check(inotifyAddWatch(fd, path, mask), "inotify_add_watch");
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
    const padded = bytes.toString("utf8", at + headerBytes, end);
    const zero = padded.indexOf("\0");
    events.push({
      watch: bytes.readInt32LE(at),
      mask: bytes.readUInt32LE(at + 4),
      name: zero === -1 ? padded : padded.slice(0, zero),
    });
    at = end;
  }
  return { events, rest: bytes.subarray(at) };
}
