/** Where a sparse file has content; the rest of it reads as zeros (lseek(2), SEEK_DATA). */
import { constants } from "node:os";
import { check, lastErrno, libc, systemError } from "./libc.ts";

const SEEK_DATA = 3;
const SEEK_HOLE = 4;

const lseek = libc.func("long lseek(int fd, long offset, int whence)") as (
  fd: number,
  offset: number,
  whence: number,
) => number;

export interface FileExtent {
  readonly startBytes: number;
  readonly endBytes: number;
}

/** Ascending, within the first `lengthBytes`. A filesystem that cannot tell shows one extent. */
export function fileExtents(fd: number, lengthBytes: number): readonly FileExtent[] {
  const extents: FileExtent[] = [];
  for (let at = 0; at < lengthBytes;) {
    const startBytes = lseek(fd, at, SEEK_DATA);
    if (startBytes === -1) {
      const errno = lastErrno();
      if (errno === constants.errno.ENXIO) break; // no more content
      throw systemError(errno, "lseek");
    }
    if (startBytes >= lengthBytes) break;
    const endBytes = Math.min(check(lseek(fd, startBytes, SEEK_HOLE), "lseek"), lengthBytes);
    extents.push({ startBytes, endBytes });
    at = endBytes;
  }
  return extents;
}
