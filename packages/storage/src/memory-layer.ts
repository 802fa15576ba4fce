/**
 * A memory layer on disk: `memory.map` and `memory.pages` in one folder, written once.
 *
 * The data pages stand in `memory.pages` in the order of the map. Both files are covered by checksums
 * that the snapshot's manifest keeps, the pages in chunks, so that damage is found before a single
 * page reaches a guest.
 */
import { createHash, webcrypto } from "node:crypto";
import { readSync } from "node:fs";
import { type FileHandle, open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { TorporError } from "@torpor/std";
import {
  type PageRun,
  appendPage,
  countPages,
  decodePageMap,
  encodePageMap,
  pageBytes,
  stateData,
  stateZero,
} from "./page-map.ts";

export const layerChunkBytes = 1 << 20;
const pagesPerChunk = layerChunkBytes / pageBytes;
const chunksInFlightMax = 16;
const layerFiles = { map: "memory.map", pages: "memory.pages" } as const;

/** Sizes and checksums of the two files; part of a snapshot's manifest. */
export interface MemoryLayerDigest {
  readonly dataPages: number;
  readonly zeroPages: number;
  readonly mapSha256: string;
  /** SHA-256, hex, of each `layerChunkBytes` of `memory.pages`. */
  readonly chunkSha256: readonly string[];
}

/** What a layer takes on disk, nearly. */
export function layerBytes({ dataPages }: MemoryLayerDigest): number {
  return dataPages * pageBytes;
}

/**
 * Writes a layer page by page, in ascending order, over what was begun in the folder and given up. Not
 * flushed: it becomes durable with the snapshot it is published in.
 *
 * Writing a chunk and its checksum happen in Node's thread pool while the next one is collected: a
 * guest may stand still for as long as all of it takes.
 */
export class MemoryLayerWriter implements AsyncDisposable {
  readonly #folder: string;
  readonly #file: FileHandle;
  readonly #runs: PageRun[] = [];
  readonly #finished: Promise<string>[] = [];
  #chunk = Buffer.allocUnsafe(layerChunkBytes);
  #filledBytes = 0;

  private constructor(folder: string, file: FileHandle) {
    this.#folder = folder;
    this.#file = file;
  }

  static async create(folder: string): Promise<MemoryLayerWriter> {
    return new MemoryLayerWriter(folder, await open(join(folder, layerFiles.pages), "w", 0o600));
  }

  addZero(page: number): void {
    appendPage(this.#runs, page, stateZero);
  }

  addData(page: number, content: Uint8Array): void {
    appendPage(this.#runs, page, stateData);
    this.#chunk.set(content, this.#filledBytes);
    this.#filledBytes += content.length;
    if (this.#filledBytes === layerChunkBytes) this.#finishChunk();
  }

  /** Waits until few enough chunks are on their way: a large guest must not fill the host's memory. */
  async catchUp(): Promise<void> {
    await this.#finished.at(-chunksInFlightMax);
  }

  /** Both files are written once this returns. */
  async finish(): Promise<MemoryLayerDigest> {
    if (this.#filledBytes > 0) this.#finishChunk();
    const chunkSha256 = await Promise.all(this.#finished);
    const map = encodePageMap(this.#runs);
    await writeFile(join(this.#folder, layerFiles.map), map, { mode: 0o600 });
    return {
      dataPages: countPages(this.#runs, stateData),
      zeroPages: countPages(this.#runs, stateZero),
      mapSha256: sha256(map),
      chunkSha256,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#finished);
    await this.#file.close();
  }

  #finishChunk(): void {
    const chunk = this.#chunk.subarray(0, this.#filledBytes);
    const written = this.#write(chunk, this.#finished.length * layerChunkBytes);
    // Seen by `finish`; until then a failure must not count as unhandled.
    written.catch(() => undefined);
    this.#finished.push(written);
    this.#chunk = Buffer.allocUnsafe(layerChunkBytes);
    this.#filledBytes = 0;
  }

  async #write(chunk: Uint8Array<ArrayBuffer>, offsetBytes: number): Promise<string> {
    const [digest] = await Promise.all([
      webcrypto.subtle.digest("SHA-256", chunk),
      this.#writeWhole(chunk, offsetBytes),
    ]);
    return Buffer.from(digest).toString("hex");
  }

  /** A disk that fills takes a part without an error; asking for the rest brings it. */
  async #writeWhole(chunk: Uint8Array, offsetBytes: number): Promise<void> {
    for (let at = 0; at < chunk.length;) {
      const length = chunk.length - at;
      const { bytesWritten } = await this.#file.write(chunk, at, length, offsetBytes + at);
      at += bytesWritten;
    }
  }
}

/**
 * A layer opened for reading: its map is checked at once, its pages chunk by chunk as they are asked
 * for in ascending order.
 */
export class MemoryLayer implements AsyncDisposable {
  readonly runs: readonly PageRun[];
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #digest: MemoryLayerDigest;
  readonly #chunk = Buffer.alloc(layerChunkBytes);
  #chunkIndex = -1;
  /** One for each chunk that `verify` found to be as it should. */
  readonly #verified: Uint8Array;

  private constructor(
    file: FileHandle,
    path: string,
    digest: MemoryLayerDigest,
    runs: readonly PageRun[],
  ) {
    this.#file = file;
    this.#path = path;
    this.#digest = digest;
    this.#verified = new Uint8Array(digest.chunkSha256.length);
    this.runs = runs;
  }

  /** @throws snapshot.corrupt naming the file, when it is missing, damaged or too short. */
  static async open(
    folder: string,
    digest: MemoryLayerDigest,
    sizeBytes: number,
  ): Promise<MemoryLayer> {
    const mapPath = join(folder, layerFiles.map);
    const map = await readFile(mapPath).catch((cause: unknown) => {
      throw corrupt(`${mapPath} cannot be read`, cause);
    });
    if (sha256(map) !== digest.mapSha256) throw corrupt(`${mapPath} does not match its checksum`);
    const runs = decodePageMap(map, sizeBytes, mapPath);
    const path = join(folder, layerFiles.pages);
    const file = await open(path, "r").catch((cause: unknown) => {
      throw corrupt(`${path} cannot be opened`, cause);
    });
    const layer = new MemoryLayer(file, path, digest, runs);
    const { size } = await file.stat();
    if (size === layerBytes(digest)) return layer;
    await file.close();
    throw corrupt(`${path} has ${size} bytes instead of ${layerBytes(digest)}`);
  }

  /** For reads that bring their own proof, or need none; see `MemoryStack.readBelow`. */
  get fd(): number {
    return this.#file.fd;
  }

  /**
   * Between one and `pageCount` data pages from `position` on, counted in the order of the map. Valid
   * until the next call.
   * @throws snapshot.corrupt before anything of a damaged chunk is returned.
   */
  async read(position: number, pageCount: number): Promise<Buffer> {
    const index = Math.floor(position / pagesPerChunk);
    if (index !== this.#chunkIndex) await this.#load(index);
    const first = position % pagesPerChunk;
    const end = Math.min(first + pageCount, pagesPerChunk);
    return this.#chunk.subarray(first * pageBytes, end * pageBytes);
  }

  get sizeBytes(): number {
    return layerBytes(this.#digest);
  }

  /** The chunks that hold these data pages. */
  chunksOf(position: number, pageCount: number): readonly number[] {
    const first = Math.floor(position / pagesPerChunk);
    const end = Math.floor((position + pageCount - 1) / pagesPerChunk) + 1;
    return Array.from({ length: end - first }, (_, index) => first + index);
  }

  /**
   * Looks at a chunk in Node's thread pool, so that `read` need not.
   * @param buffer Of `layerChunkBytes`.
   * @throws snapshot.corrupt
   */
  async verifyAhead(index: number, buffer: Buffer<ArrayBuffer>): Promise<void> {
    const { offset, length } = this.#extentOf(index);
    const { bytesRead } = await this.#file.read(buffer, 0, length, offset);
    const found = await webcrypto.subtle.digest("SHA-256", buffer.subarray(0, length));
    this.#compare(index, bytesRead, Buffer.from(found).toString("hex"));
  }

  /**
   * Looks once at every chunk that holds one of these data pages, for whoever takes them from the file
   * by himself. Blocks, because a guest's page fault waits for it.
   * @throws snapshot.corrupt
   */
  verify(position: number, pageCount: number): void {
    for (const index of this.chunksOf(position, pageCount)) {
      if (this.#verified[index] === 1) continue;
      this.#chunkIndex = -1;
      const { offset, length } = this.#extentOf(index);
      this.#check(index, readSync(this.#file.fd, this.#chunk, 0, length, offset));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }

  async #load(index: number): Promise<void> {
    this.#chunkIndex = -1;
    const { offset, length } = this.#extentOf(index);
    const { bytesRead } = await this.#file.read(this.#chunk, 0, length, offset);
    this.#check(index, bytesRead);
    this.#chunkIndex = index;
  }

  #extentOf(index: number): { readonly offset: number; readonly length: number } {
    const offset = index * layerChunkBytes;
    return { offset, length: Math.min(layerChunkBytes, this.sizeBytes - offset) };
  }

  /** Of `#chunk`, once. */
  #check(index: number, bytesRead: number): void {
    const { length } = this.#extentOf(index);
    const isVerified = this.#verified[index] === 1;
    const expected = this.#digest.chunkSha256[index];
    const found = isVerified ? expected : sha256(this.#chunk.subarray(0, length));
    this.#compare(index, bytesRead, found);
  }

  #compare(index: number, bytesRead: number, found: string | undefined): void {
    const { offset, length } = this.#extentOf(index);
    if (bytesRead !== length)
      throw corrupt(`${this.#path} ends early, at byte ${offset + bytesRead}`);
    if (found !== this.#digest.chunkSha256[index]) {
      throw corrupt(`${this.#path} does not match its checksum at byte ${offset}`);
    }
    this.#verified[index] = 1;
  }
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function corrupt(what: string, cause?: unknown): TorporError {
  return new TorporError("snapshot.corrupt", what, { cause });
}
