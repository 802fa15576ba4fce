/**
 * Reads and writes at a place in a file that finish only when all bytes are done: one system call
 * may do only a part.
 */
import type { FileHandle } from "node:fs/promises";

/**
 * Reads until `into` is full. @returns how many bytes it read; fewer than asked for only at the end
 * of the file.
 */
export async function readWhole(
  file: FileHandle,
  into: Uint8Array,
  offsetBytes: number,
): Promise<number> {
  let at = 0;
  while (at < into.length) {
    const { bytesRead } = await file.read(into, at, into.length - at, offsetBytes + at);
    if (bytesRead === 0) break;
    at += bytesRead;
  }
  return at;
}

/**
 * Writes all of `from`. A disk that fills up accepts a part without an error; writing the rest
 * brings the error.
 */
export async function writeWhole(
  file: FileHandle,
  from: Uint8Array,
  offsetBytes: number,
): Promise<void> {
  for (let at = 0; at < from.length;) {
    const { bytesWritten } = await file.write(from, at, from.length - at, offsetBytes + at);
    at += bytesWritten;
  }
}
