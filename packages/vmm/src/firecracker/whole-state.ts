/**
 * A whole VM in one file: its memory, each page at its offset, and after it what Firecracker calls
 * the state.
 *
 *     memory, then the state, then "TORPFCW1" and the state's length in 8 bytes
 *
 * The memory comes first because Firecracker loads it from any file that is long enough.
 */
import { open } from "node:fs/promises";

const magic = Buffer.from("TORPFCW1", "latin1");
const trailerBytes = magic.length + 8;

/** Adds the state to the file that holds the memory. */
export async function appendState(path: string, state: Buffer): Promise<void> {
  const trailer = Buffer.alloc(trailerBytes);
  magic.copy(trailer);
  trailer.writeBigUInt64LE(BigInt(state.length), magic.length);
  await using file = await open(path, "a");
  await file.writeFile(Buffer.concat([state, trailer]));
}

/** Reads the state from such a file. @returns undefined for a file that holds the state alone. */
export async function readState(path: string, memoryBytes: number): Promise<Buffer | undefined> {
  await using file = await open(path, "r");
  const { size } = await file.stat();
  const stateBytes = size - memoryBytes - trailerBytes;
  if (stateBytes <= 0) return undefined;
  const { buffer: trailer } = await file.read(
    Buffer.alloc(trailerBytes),
    0,
    trailerBytes,
    size - trailerBytes,
  );
  const isOurs = trailer.subarray(0, magic.length).equals(magic);
  if (!isOurs || trailer.readBigUInt64LE(magic.length) !== BigInt(stateBytes)) return undefined;
  const { buffer } = await file.read(Buffer.alloc(stateBytes), 0, stateBytes, memoryBytes);
  return buffer;
}
