/**
 * Checksums of a large file in chunks, made when the file is saved and checked before it is used.
 *
 * With chunks an error can name the place of the damage, and Node's thread pool can do the hashing:
 * a file takes a few buffers and leaves the event loop free. Files with holes are usual, so a chunk
 * of zeros has a known checksum and is not hashed.
 */
import { hash } from "node:crypto";
import { readFileSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { sha256InBackground } from "@torpor/native";
import { TorporError, parseInteger, parseObject, parseString, systemCode } from "@torpor/std";
import { chunkBytes as usualChunkBytes } from "./chunk-buffers.ts";
import { runLanes } from "./lanes.ts";
import { readWhole } from "./whole-io.ts";

/** The checksums of one file; part of a manifest. */
export interface ChunkDigest {
  readonly bytes: number;
  readonly chunkBytes: number;
  /** SHA-256, hex, of each chunk in order; the last chunk may be shorter. */
  readonly chunkSha256: readonly string[];
}

/** LIMIT: a digest made elsewhere must not make the reader allocate all memory. */
const chunkBytesMax = 16 << 20;
/** LIMIT: files up to this size are read and hashed in one go, within a millisecond. */
const smallBytesMax = 256 * 1024;
/** LIMIT: one for each thread of the pool; more are no faster and crowd out the event loop. */
const chunksInFlightMax = 4;

/** Checks the shape of a digest, not the file. @throws argument.invalid */
export function parseChunkDigest(value: unknown, what: string): ChunkDigest {
  const { bytes, chunkBytes, chunkSha256 } = parseObject(value, what);
  if (!Array.isArray(chunkSha256)) {
    throw new TorporError("argument.invalid", `${what} has no checksums`);
  }
  return {
    bytes: parseInteger(bytes, `${what}: bytes`, 0, Number.MAX_SAFE_INTEGER),
    chunkBytes: parseInteger(chunkBytes, `${what}: chunkBytes`, 1, chunkBytesMax),
    chunkSha256: chunkSha256.map((one) => parseString(one, `${what}: chunkSha256`, 64)),
  };
}

/** Hashes a file. @throws snapshot.corrupt when there is no such file. */
export async function digestChunks(path: string): Promise<ChunkDigest> {
  await using file = await openFile(path);
  return await hashChunks(path, file, (await file.stat()).size, usualChunkBytes);
}

/**
 * Compares a file with its checksums. @throws snapshot.corrupt naming the file and the first
 * damaged chunk.
 */
export async function verifyChunks(path: string, expected: ChunkDigest): Promise<void> {
  const { bytes, chunkBytes, chunkSha256 } = expected;
  const isSound = chunkBytes > 0 && chunkBytes <= chunkBytesMax;
  if (!isSound || chunkSha256.length !== Math.ceil(bytes / chunkBytes)) {
    throw corrupt(`the checksums of ${path} contradict each other`);
  }
  const actual = await (bytes <= smallBytesMax
    ? hashSmall(path, expected)
    : hashLarge(path, expected));
  const damaged = chunkSha256.findIndex((wanted, index) => wanted !== actual[index]);
  if (damaged < 0) return;
  throw corrupt(`${path} does not match its checksum at byte ${damaged * chunkBytes}`);
}

async function hashLarge(
  path: string,
  { bytes, chunkBytes }: ChunkDigest,
): Promise<readonly string[]> {
  await using file = await openFile(path);
  assertSize(path, (await file.stat()).size, bytes);
  return (await hashChunks(path, file, bytes, chunkBytes)).chunkSha256;
}

/** Synchronous: a wake waits for this, and trips through the thread pool take far longer. */
function hashSmall(path: string, { bytes, chunkBytes }: ChunkDigest): readonly string[] {
  const content = readSmall(path);
  assertSize(path, content.length, bytes);
  return Array.from({ length: Math.ceil(bytes / chunkBytes) }, (_, index) =>
    hash("sha256", content.subarray(index * chunkBytes, (index + 1) * chunkBytes)),
  );
}

function readSmall(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw asMissing(path, cause);
  }
}

function assertSize(path: string, foundBytes: number, bytes: number): void {
  if (foundBytes !== bytes) throw corrupt(`${path} has ${foundBytes} bytes instead of ${bytes}`);
}

async function openFile(path: string): Promise<FileHandle> {
  return await open(path, "r").catch((cause: unknown) => {
    throw asMissing(path, cause);
  });
}

function asMissing(path: string, cause: unknown): TorporError {
  if (systemCode(cause) === "ENOENT") return corrupt(`${path} is missing`, cause);
  return TorporError.from(cause, "storage.failed", path);
}

/** Each lane has a buffer of its own. */
async function hashChunks(
  path: string,
  file: FileHandle,
  bytes: number,
  chunkBytes: number,
): Promise<ChunkDigest> {
  const chunkCount = Math.ceil(bytes / chunkBytes);
  const chunkSha256 = new Array<string>(chunkCount).fill("");
  const zeros = new ZeroChunk(chunkBytes);
  const laneCount = Math.min(chunksInFlightMax, chunkCount);
  await runLanes(laneCount, chunkSha256.keys(), async (indices) => {
    const buffer = Buffer.allocUnsafeSlow(Math.min(chunkBytes, bytes));
    for (const index of indices) {
      const offsetBytes = index * chunkBytes;
      const chunk = buffer.subarray(0, bytes - offsetBytes);
      await readChunk(path, file, chunk, offsetBytes);
      chunkSha256[index] = zeros.sha256If(chunk) ?? (await sha256InBackground(chunk));
    }
  });
  return { bytes, chunkBytes, chunkSha256 };
}

async function readChunk(
  path: string,
  file: FileHandle,
  chunk: Uint8Array,
  offsetBytes: number,
): Promise<void> {
  const found = await readWhole(file, chunk, offsetBytes).catch((cause: unknown) => {
    throw TorporError.from(cause, "storage.failed", path);
  });
  if (found < chunk.length) throw corrupt(`${path} ends early, at byte ${offsetBytes + found}`);
}

/** The checksum of a whole chunk of zeros, computed when the first one is met. */
class ZeroChunk {
  readonly #zeros: Buffer;
  #sha256: string | undefined;

  constructor(chunkBytes: number) {
    this.#zeros = Buffer.alloc(chunkBytes);
  }

  sha256If(chunk: Uint8Array): string | undefined {
    if (!this.#zeros.equals(chunk)) return undefined;
    this.#sha256 ??= hash("sha256", this.#zeros);
    return this.#sha256;
  }
}

function corrupt(what: string, cause?: unknown): TorporError {
  return new TorporError("snapshot.corrupt", what, { cause });
}
