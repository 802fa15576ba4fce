/** Controls which parts of a file are in the kernel's page cache: brings some in, or drops all. */
import { libc } from "./libc.ts";

const POSIX_FADV_WILLNEED = 3;
const POSIX_FADV_DONTNEED = 4;

/**
 * LIMIT: bytes of one request. The kernel reads as much as the disk's own read-ahead or its largest
 * transfer, whichever is more, and silently ignores the remainder (mm/readahead.c,
 * force_page_cache_ra). This is the default read-ahead of a disk.
 */
export const readAheadBytesMax = 128 * 1024;

const posixFadvise = libc.func(
  "int posix_fadvise(int fd, long offset, long length, int advice)",
) as (fd: number, offset: number, length: number, advice: number) => number;

/**
 * Starts to read a part of a file into the page cache. Returns before it is there, but waits for
 * its turn if the disk is busy. This is a hint: a kernel that ignores it changes nothing but speed.
 */
export function readAhead(fd: number, offsetBytes: number, lengthBytes: number): void {
  for (let done = 0; done < lengthBytes; done += readAheadBytesMax) {
    const pieceBytes = Math.min(readAheadBytesMax, lengthBytes - done);
    posixFadvise(fd, offsetBytes + done, pieceBytes, POSIX_FADV_WILLNEED);
  }
}

/** Drops a file from the page cache, except what is mapped or not yet written to the disk. */
export function dropFromCache(fd: number): void {
  posixFadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}
