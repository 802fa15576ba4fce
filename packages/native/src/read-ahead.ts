/** Asks the kernel to bring a part of a file into its page cache, without waiting for it. */
import { libc } from "./libc.ts";

const POSIX_FADV_WILLNEED = 3;

const posixFadvise = libc.func(
  "int posix_fadvise(int fd, long offset, long length, int advice)",
) as (fd: number, offset: number, length: number, advice: number) => number;

/** A hint: a kernel that ignores it changes nothing but speed. Length 0 means to the end. */
export function readAhead(fd: number, offsetBytes: number, lengthBytes: number): void {
  posixFadvise(fd, offsetBytes, lengthBytes, POSIX_FADV_WILLNEED);
}
