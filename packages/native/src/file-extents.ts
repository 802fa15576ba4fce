/**
 * Finds data and holes in a sparse file (lseek(2), SEEK_DATA and SEEK_HOLE), and shares one file's
 * blocks with another (ioctl_ficlone(2)).
 *
 * A file system may report data that nobody wrote: some look at blocks larger than a page, and some
 * know no holes. A caller that takes data for "was written" must check `keepsHoles` first.
 */
import { closeSync, ftruncateSync, openSync, unlinkSync, writeSync } from "node:fs";
import { join } from "node:path";
import { check, lastErrno, libc, systemError } from "./libc.ts";
import { type AddressRange, pageBytes } from "./pagemap.ts";

const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const ENXIO = 6;
const FICLONE = 0x4004_9409;

const lseek = libc.func("long lseek(int fd, long offset, int whence)") as {
  (fd: number, offset: number, whence: number): number;
  async(
    fd: number,
    offset: number,
    whence: number,
    done: (error: Error | null, at: number) => void,
  ): void;
};
const ioctl = libc.func("int ioctl(int fd, unsigned long request, long value)") as (
  fd: number,
  request: number,
  value: number,
) => number;

/** The parts of a file that are not holes, ascending. @throws a system error */
export function dataRanges(fd: number): readonly AddressRange[] {
  const ranges: AddressRange[] = [];
  for (let at = 0; ;) {
    const start = lseek(fd, at, SEEK_DATA);
    if (start === -1 && lastErrno() === ENXIO) return ranges;
    check(start, "lseek");
    at = check(lseek(fd, start, SEEK_HOLE), "lseek");
    ranges.push({ start, end: at });
  }
}

/**
 * The first part at or after `from` that is not a hole, found in Node's thread pool; undefined if
 * only a hole is left. Moves the descriptor's file offset.
 * @throws a system error
 */
export async function nextDataRange(fd: number, from: number): Promise<AddressRange | undefined> {
  const start = await seek(fd, from, SEEK_DATA);
  if (start === undefined) return undefined;
  const end = await seek(fd, start, SEEK_HOLE);
  return end === undefined ? undefined : { start, end };
}

async function seek(fd: number, from: number, whence: number): Promise<number | undefined> {
  const { promise, resolve, reject } = Promise.withResolvers<number | undefined>();
  lseek.async(fd, from, whence, (error, at) => {
    if (error !== null) reject(error);
    else if (at !== -1) resolve(at);
    else if (lastErrno() === ENXIO) resolve(undefined);
    else reject(systemError(lastErrno(), "lseek"));
  });
  return await promise;
}

/**
 * Whether a page that is written into a hole in this folder is reported as that page and nothing
 * else.
 */
export function keepsHoles(folder: string): boolean {
  const path = join(folder, `holes-${process.pid}`);
  const fd = openSync(path, "wx+", 0o600);
  try {
    unlinkSync(path);
    ftruncateSync(fd, 64 * pageBytes);
    // With a gap between them, and one of zeros, which are data like any other.
    const pages = [3, 5, 40];
    for (const page of pages) {
      writeSync(fd, Buffer.alloc(pageBytes, page === 5 ? 0 : 1), 0, pageBytes, page * pageBytes);
    }
    const wanted = pages.map((page) => ({ start: page * pageBytes, end: (page + 1) * pageBytes }));
    return JSON.stringify(dataRanges(fd)) === JSON.stringify(wanted);
  } finally {
    closeSync(fd);
  }
}

/**
 * Makes the content of one file that of another without copying it.
 * @returns false if the file system cannot do it, or if the two files are on different ones.
 */
export function tryShareBlocks(fromFd: number, toFd: number): boolean {
  return ioctl(toFd, FICLONE, fromFd) === 0;
}
