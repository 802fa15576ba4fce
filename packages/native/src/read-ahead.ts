/** What of a file is in the kernel's page cache: more of it soon, or none. */
import { libc } from "./libc.ts";

const POSIX_FADV_WILLNEED = 3;
const POSIX_FADV_DONTNEED = 4;

/**
 * LIMIT: of one request. The kernel reads as much as the disk's own read-ahead or its largest transfer,
 * whichever is more, and forgets the rest without a word (mm/readahead.c, force_page_cache_ra). This is
 * the read-ahead that a disk has unless somebody changes it.
 */
export const readAheadBytesMax = 128 * 1024;

const posixFadvise = libc.func(
  "int posix_fadvise(int fd, long offset, long length, int advice)",
) as (fd: number, offset: number, length: number, advice: number) => number;

/**
 * Comes back before it is there, but waits for its turn where the disk has much to do. A hint: a kernel
 * that ignores it changes nothing but speed.
 */
export function readAhead(fd: number, offsetBytes: number, lengthBytes: number): void {
  for (let done = 0; done < lengthBytes; done += readAheadBytesMax) {
    const pieceBytes = Math.min(readAheadBytesMax, lengthBytes - done);
    posixFadvise(fd, offsetBytes + done, pieceBytes, POSIX_FADV_WILLNEED);
  }
}

/** Takes a file out of the page cache, but for what is mapped or not yet written to the disk. */
export function dropFromCache(fd: number): void {
  posixFadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}
