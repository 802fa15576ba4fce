/** Writes all of some bytes to where a file stands; one call of the system may write less. */
import type { FileHandle } from "node:fs/promises";

/** @throws system error */
export async function writeWhole(file: FileHandle, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    const { bytesWritten } = await file.write(bytes, at);
    at += bytesWritten;
  }
}
