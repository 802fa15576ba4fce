/** What of a file is in the kernel's page cache: more of it soon, or none. */
import { libc } from "./libc.ts";

const POSIX_FADV_WILLNEED = 3;
const POSIX_FADV_DONTNEED = 4;

const posixFadvise = libc.func(
  "int posix_fadvise(int fd, long offset, long length, int advice)",
) as (fd: number, offset: number, length: number, advice: number) => number;

/** Comes back before it is there. A hint: a kernel that ignores it changes nothing but speed. Length 0 means to the end. */
export function readAhead(fd: number, offsetBytes: number, lengthBytes: number): void {
  posixFadvise(fd, offsetBytes, lengthBytes, POSIX_FADV_WILLNEED);
}

/** Takes a file out of the page cache, but for what is mapped or not yet written to the disk. */
export function dropFromCache(fd: number): void {
  posixFadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}
