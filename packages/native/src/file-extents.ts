/**
 * Where a sparse file has data and where holes (lseek(2), SEEK_DATA and SEEK_HOLE), and sharing one
 * file's blocks with another (ioctl_ficlone(2)).
 *
 * A file system may call data what nobody wrote: those that look at blocks larger than a page do, and
 * those that know no holes. Who takes data for "was written" asks `keepsHoles` first.
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

/** The parts of a file that are no holes, ascending. */
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
 * The first part at or behind `from` that is no hole, found in Node's thread pool; undefined when only a
 * hole is left. Moves the place where the file stands. @throws system error
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

/** Whether a page that is written into a hole in this folder shows as that page and nothing else. */
export function keepsHoles(folder: string): boolean {
  const path = join(folder, `holes-${process.pid}`);
  const fd = openSync(path, "wx+", 0o600);
  try {
    unlinkSync(path);
    ftruncateSync(fd, 64 * pageBytes);
    // Apart by one page, and zeros too: those are data as well as anything.
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
 * Makes one file another's content without copying it.
 * @returns false where the file system cannot, or the two are on different ones.
 */
export function tryShareBlocks(fromFd: number, toFd: number): boolean {
  return ioctl(toFd, FICLONE, fromFd) === 0;
}
