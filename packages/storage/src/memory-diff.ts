/**
 * A memory layer: how a guest's memory differs from the template's image.
 *
 * Every page is in one of three states. Inherit: the image's page. Zero: a page of zeros, whatever
 * the image says. Data: a page stored here. A page the guest zeroed is written down as zero and
 * never inferred from its content being empty: taking "all zero" for "unchanged" brings old content
 * back and corrupts the guest.
 *
 * Two files. `memory.map` lists runs of zero and data pages in ascending order; what it does not
 * name is inherited. `memory.pages` holds the data pages in the order of the map. Both are covered
 * by checksums kept in the snapshot's manifest, the pages in chunks, so that damage is found before
 * a single page reaches a guest.
 *
 *     memory.map:  "TORPMAP1", then per run: u32 first page, u32 page count, u32 state (1 zero, 2 data)
 */
import { createHash, webcrypto } from "node:crypto";
import { readSync } from "node:fs";
import { type FileHandle, open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate as yieldToOthers } from "node:timers/promises";
import { TorporError } from "@torpor/std";

export const pageBytes = 4096;
const chunkBytes = 1 << 20;
const chunksInFlightMax = 16;
const magic = Buffer.from("TORPMAP1", "latin1");
const runBytes = 12;
const stateZero = 1;
const stateData = 2;
const zeroPage = Buffer.alloc(pageBytes);

/** The guest's memory while its vCPUs are held. */
export interface ReadableMemory {
  readonly sizeBytes: number;
  /** Ranges that may differ from the image. */
  ownRanges(): readonly { readonly startBytes: number; readonly endBytes: number }[];
  read(offsetBytes: number, into: Uint8Array): void;
}

export interface WritableMemory {
  write(offsetBytes: number, from: Uint8Array): void;
}

/** Sizes and checksums of the two files; part of the snapshot's manifest. */
export interface MemoryDiffDigest {
  readonly dataPages: number;
  readonly zeroPages: number;
  readonly mapSha256: string;
  /** One for each `chunkBytes` of `memory.pages`. */
  readonly chunkBytes: number;
  readonly chunkSha256: readonly string[];
}

interface PageRun {
  readonly firstPage: number;
  pageCount: number;
  readonly state: typeof stateZero | typeof stateData;
}

/**
 * Writes the difference between `memory` and the image at `basePath` into `folder`. Not flushed: it
 * becomes durable with the snapshot it is published in.
 */
export async function writeMemoryDiff(
  folder: string,
  basePath: string,
  memory: ReadableMemory,
): Promise<MemoryDiffDigest> {
  const runs: PageRun[] = [];
  let chunkSha256: readonly string[];
  {
    await using pages = await open(join(folder, "memory.pages"), "wx", 0o600);
    await using base = await open(basePath, "r");
    const writer = new ChunkWriter(pages);
    const comparer = new Comparer(memory, base.fd, runs, writer);
    for (const range of memory.ownRanges()) await comparer.compare(range);
    chunkSha256 = await writer.finish();
  }
  const map = encodeMap(runs);
  await writeFile(join(folder, "memory.map"), map, { flag: "wx", mode: 0o600 });
  return {
    dataPages: countPages(runs, stateData),
    zeroPages: countPages(runs, stateZero),
    mapSha256: sha256(map),
    chunkBytes,
    chunkSha256,
  };
}

/**
 * Verifies the layer in `folder` and writes it over memory that holds the template's image.
 * @throws snapshot.corrupt naming the file and the place, before anything damaged is written.
 */
export async function applyMemoryDiff(
  folder: string,
  digest: MemoryDiffDigest,
  memory: WritableMemory & { readonly sizeBytes: number },
): Promise<void> {
  const runs = await readMap(folder, digest, memory.sizeBytes);
  await using pages = await open(join(folder, "memory.pages"), "r");
  const reader = new ChunkReader(pages, digest);
  for (const run of runs) {
    let page = run.firstPage;
    const endPage = run.firstPage + run.pageCount;
    while (page < endPage) {
      if (run.state === stateZero) {
        memory.write(page * pageBytes, zeroPage);
        page += 1;
        continue;
      }
      const bytes = await reader.next((endPage - page) * pageBytes);
      memory.write(page * pageBytes, bytes);
      page += bytes.length / pageBytes;
    }
  }
}

/**
 * Compares ranges of memory with the image, page by page.
 *
 * Reads are synchronous: the guest stands still meanwhile, there are hundreds of short ranges, and a
 * trip through the thread pool for each costs more than the read. Others get their turn regularly.
 */
class Comparer {
  readonly #memory: ReadableMemory;
  readonly #baseFd: number;
  readonly #runs: PageRun[];
  readonly #writer: ChunkWriter;
  readonly #now = Buffer.alloc(chunkBytes);
  readonly #before = Buffer.alloc(chunkBytes);
  #bytesSinceTurn = 0;

  constructor(memory: ReadableMemory, baseFd: number, runs: PageRun[], writer: ChunkWriter) {
    this.#memory = memory;
    this.#baseFd = baseFd;
    this.#runs = runs;
    this.#writer = writer;
  }

  async compare(range: { readonly startBytes: number; readonly endBytes: number }): Promise<void> {
    for (let start = range.startBytes; start < range.endBytes; start += chunkBytes) {
      const lengthBytes = Math.min(chunkBytes, range.endBytes - start);
      const now = this.#now.subarray(0, lengthBytes);
      const before = this.#before.subarray(0, lengthBytes);
      this.#memory.read(start, now);
      // The image may be sparse, but it is never shorter than the guest's memory.
      readSync(this.#baseFd, before, 0, lengthBytes, start);
      this.#comparePages(start, now, before);
      this.#bytesSinceTurn += lengthBytes;
      if (this.#bytesSinceTurn < chunkBytes) continue;
      this.#bytesSinceTurn = 0;
      await yieldToOthers();
      await this.#writer.catchUp();
    }
  }

  #comparePages(startBytes: number, now: Buffer, before: Buffer): void {
    for (let offset = 0; offset < now.length; offset += pageBytes) {
      const page = now.subarray(offset, offset + pageBytes);
      if (page.equals(before.subarray(offset, offset + pageBytes))) continue;
      const state = page.equals(zeroPage) ? stateZero : stateData;
      appendPage(this.#runs, (startBytes + offset) / pageBytes, state);
      if (state === stateData) this.#writer.add(page);
    }
  }
}

function appendPage(runs: PageRun[], page: number, state: PageRun["state"]): void {
  const last = runs.at(-1);
  if (last?.state === state && last.firstPage + last.pageCount === page) last.pageCount += 1;
  else runs.push({ firstPage: page, pageCount: 1, state });
}

function countPages(runs: readonly PageRun[], state: PageRun["state"]): number {
  return runs.reduce((sum, run) => (run.state === state ? sum + run.pageCount : sum), 0);
}

function encodeMap(runs: readonly PageRun[]): Buffer {
  const map = Buffer.alloc(magic.length + runs.length * runBytes);
  magic.copy(map);
  for (const [index, run] of runs.entries()) {
    const offset = magic.length + index * runBytes;
    map.writeUInt32LE(run.firstPage, offset);
    map.writeUInt32LE(run.pageCount, offset + 4);
    map.writeUInt32LE(run.state, offset + 8);
  }
  return map;
}

async function readMap(
  folder: string,
  digest: MemoryDiffDigest,
  sizeBytes: number,
): Promise<readonly PageRun[]> {
  const path = join(folder, "memory.map");
  const map = await readFile(path).catch((cause: unknown) => {
    throw corrupt(`${path} cannot be read`, cause);
  });
  if (sha256(map) !== digest.mapSha256) throw corrupt(`${path} does not match its checksum`);
  if (!map.subarray(0, magic.length).equals(magic)) throw corrupt(`${path} is of another format`);
  const runs: PageRun[] = [];
  for (let offset = magic.length; offset < map.length; offset += runBytes) {
    const state = map.readUInt32LE(offset + 8);
    const run = { firstPage: map.readUInt32LE(offset), pageCount: map.readUInt32LE(offset + 4) };
    const fits = (run.firstPage + run.pageCount) * pageBytes <= sizeBytes;
    if (!fits || (state !== stateZero && state !== stateData)) {
      throw corrupt(`${path} names pages that this guest does not have`);
    }
    runs.push({ ...run, state });
  }
  return runs;
}

/**
 * Collects pages into chunks, each one write and one checksum. Both happen in Node's thread pool while
 * the next chunk is collected: the guest stands still for as long as all of it takes.
 */
class ChunkWriter {
  readonly #file: FileHandle;
  readonly #finished: Promise<string>[] = [];
  #chunk = Buffer.allocUnsafe(chunkBytes);
  #filledBytes = 0;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  add(page: Buffer): void {
    page.copy(this.#chunk, this.#filledBytes);
    this.#filledBytes += page.length;
    if (this.#filledBytes === chunkBytes) this.#finishChunk();
  }

  /** Waits until few enough chunks are on their way: a large guest must not fill the host's memory. */
  async catchUp(): Promise<void> {
    await this.#finished.at(-chunksInFlightMax);
  }

  /** @returns the checksums of all chunks, once everything is written. */
  async finish(): Promise<readonly string[]> {
    if (this.#filledBytes > 0) this.#finishChunk();
    return await Promise.all(this.#finished);
  }

  #finishChunk(): void {
    const chunk = this.#chunk.subarray(0, this.#filledBytes);
    const written = this.#write(chunk, this.#finished.length * chunkBytes);
    // Seen by `finish`; until then a failure must not count as unhandled.
    written.catch(() => undefined);
    this.#finished.push(written);
    this.#chunk = Buffer.allocUnsafe(chunkBytes);
    this.#filledBytes = 0;
  }

  /** A disk that fills takes a part without an error; asking for the rest brings it. */
  async #writeWhole(chunk: Uint8Array, offsetBytes: number): Promise<void> {
    for (let at = 0; at < chunk.length;) {
      const length = chunk.length - at;
      const { bytesWritten } = await this.#file.write(chunk, at, length, offsetBytes + at);
      at += bytesWritten;
    }
  }

  async #write(chunk: Uint8Array<ArrayBuffer>, offsetBytes: number): Promise<string> {
    const [digest] = await Promise.all([
      webcrypto.subtle.digest("SHA-256", chunk),
      this.#writeWhole(chunk, offsetBytes),
    ]);
    return Buffer.from(digest).toString("hex");
  }
}

/** Hands out pages in order, from chunks that have passed their checksum. */
class ChunkReader {
  readonly #file: FileHandle;
  readonly #digest: MemoryDiffDigest;
  #chunk: Buffer = Buffer.alloc(0);
  #nextChunk = 0;

  constructor(file: FileHandle, digest: MemoryDiffDigest) {
    this.#file = file;
    this.#digest = digest;
  }

  /** Between one page and `bytesMax`, whole pages only. */
  async next(bytesMax: number): Promise<Buffer> {
    if (this.#chunk.length === 0) this.#chunk = await this.#readChunk();
    const bytes = this.#chunk.subarray(0, bytesMax);
    this.#chunk = this.#chunk.subarray(bytes.length);
    return bytes;
  }

  async #readChunk(): Promise<Buffer> {
    const index = this.#nextChunk++;
    const chunk = Buffer.alloc(this.#digest.chunkBytes);
    const offset = index * this.#digest.chunkBytes;
    const { bytesRead } = await this.#file.read(chunk, 0, chunk.length, offset);
    const bytes = chunk.subarray(0, bytesRead);
    if (bytesRead === 0 || bytesRead % pageBytes !== 0) {
      throw corrupt(`memory.pages ends early, at byte ${offset + bytesRead}`);
    }
    if (sha256(bytes) !== this.#digest.chunkSha256[index]) {
      throw corrupt(`memory.pages does not match its checksum at byte ${offset}`);
    }
    return bytes;
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function corrupt(what: string, cause?: unknown): TorporError {
  return new TorporError("snapshot.corrupt", what, { cause });
}
