/** Reads and writes at a place in a file that are done only when all is: one call may do a part. */
import type { FileHandle } from "node:fs/promises";

/** @returns how many bytes there were; fewer than asked for only at the end of the file. */
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

/** A disk that fills takes a part without an error; asking for the rest brings it. */
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
