/**
 * A memory layer on disk: `memory.map` and `memory.pages` in one folder, written once.
 *
 * `memory.pages` holds the data pages in the order of the map. The snapshot's manifest keeps
 * checksums of both files, of the pages in chunks, so that damage is found before a single page
 * reaches a guest.
 */
import { hash } from "node:crypto";
import { closeSync, fstatSync, openSync, read, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { sha256InBackground } from "@torpor/native";
import { TorporError } from "@torpor/std";
import { type ChunkBuffer, chunkBytes, takeChunkBuffer } from "./chunk-buffers.ts";
import { type PageRun, decodePageMap, pageBytes } from "./page-map.ts";

const pagesPerChunk = chunkBytes / pageBytes;
const readInBackground = promisify(read);
/** Names within the folder of a layer. */
export const layerFiles = { map: "memory.map", pages: "memory.pages" } as const;

/** Sizes and checksums of the two files; part of a snapshot's manifest. */
export interface MemoryLayerDigest {
  readonly dataPages: number;
  readonly zeroPages: number;
  readonly mapSha256: string;
  /** SHA-256, hex, of each `chunkBytes` of `memory.pages`. */
  readonly chunkSha256: readonly string[];
}

/** Estimates what a layer takes on disk. */
export function layerBytes({ dataPages }: MemoryLayerDigest): number {
  return dataPages * pageBytes;
}

/** Consecutive data pages of a chunk. */
export interface ChunkPart {
  readonly index: number;
  /** The position of the first page within the chunk. */
  readonly firstPage: number;
  readonly pageCount: number;
}

/**
 * A layer opened for reading: its map is checked at once, its pages chunk by chunk as they are
 * read.
 */
export class MemoryLayer implements Disposable {
  readonly runs: readonly PageRun[];
  readonly #fd: number;
  readonly #file: Disposable;
  readonly #path: string;
  readonly #digest: MemoryLayerDigest;
  /** The chunk that `read` has loaded. */
  #chunk: ChunkBuffer | undefined;
  #chunkIndex = -1;
  /** A byte for each chunk: 1 once its checksum was found to match. */
  readonly #verified: Uint8Array;

  private constructor(
    { fd, file }: { readonly fd: number; readonly file: Disposable },
    path: string,
    digest: MemoryLayerDigest,
    runs: readonly PageRun[],
  ) {
    this.#fd = fd;
    this.#file = file;
    this.#path = path;
    this.#digest = digest;
    this.#verified = new Uint8Array(digest.chunkSha256.length);
    this.runs = runs;
  }

  /**
   * Opens a layer. Synchronous: a wake waits for it, and trips through the thread pool take far
   * longer.
   * @throws snapshot.corrupt naming the file, when it is missing, damaged or too short.
   */
  static open(folder: string, digest: MemoryLayerDigest, sizeBytes: number): MemoryLayer {
    const mapPath = join(folder, layerFiles.map);
    const map = orCorrupt(`${mapPath} cannot be read`, () => readFileSync(mapPath));
    if (hash("sha256", map) !== digest.mapSha256)
      throw corrupt(`${mapPath} does not match its checksum`);
    const runs = decodePageMap(map, sizeBytes, mapPath);
    const path = join(folder, layerFiles.pages);
    using undo = new DisposableStack();
    const openPages = (): number => openSync(path, "r");
    const fd = undo.adopt(orCorrupt(`${path} cannot be opened`, openPages), closeSync);
    const { size } = fstatSync(fd);
    if (size !== layerBytes(digest)) {
      throw corrupt(`${path} has ${size} bytes instead of ${layerBytes(digest)}`);
    }
    return new MemoryLayer({ fd, file: undo.move() }, path, digest, runs);
  }

  /**
   * The file of the pages, for reads that bring their own proof or need none; see
   * `MemoryStack.readBelow`.
   */
  get fd(): number {
    return this.#fd;
  }

  /**
   * Reads between one and `pageCount` data pages from `position` on, counted in the order of the
   * map. The result is valid until the next call.
   * @throws snapshot.corrupt before anything of a damaged chunk is returned.
   */
  async read(position: number, pageCount: number): Promise<Buffer> {
    const index = Math.floor(position / pagesPerChunk);
    const chunk = (this.#chunk ??= takeChunkBuffer()).bytes;
    if (index !== this.#chunkIndex) {
      this.#chunkIndex = -1;
      await this.load(index, chunk);
      this.#chunkIndex = index;
    }
    const first = position % pagesPerChunk;
    const end = Math.min(first + pageCount, pagesPerChunk);
    return chunk.subarray(first * pageBytes, end * pageBytes);
  }

  get sizeBytes(): number {
    return layerBytes(this.#digest);
  }

  /** Lists data pages, counted in the order of the map, by the chunks that hold them. */
  *partsOf(position: number, pageCount: number): Generator<ChunkPart> {
    for (let done = 0; done < pageCount;) {
      const firstPage = (position + done) % pagesPerChunk;
      const count = Math.min(pageCount - done, pagesPerChunk - firstPage);
      yield { index: Math.floor((position + done) / pagesPerChunk), firstPage, pageCount: count };
      done += count;
    }
  }

  /**
   * Fills `into`, which has the size of a chunk, with a chunk, and checks it unless it was checked
   * before.
   * @throws snapshot.corrupt
   */
  async load(index: number, into: Buffer): Promise<void> {
    const { offset, length } = this.#extentOf(index);
    const { bytesRead } = await readInBackground(this.#fd, into, 0, length, offset);
    this.#assertWhole(offset + bytesRead, offset + length);
    if (this.#verified[index] === 1) return;
    this.#compare(index, await sha256InBackground(into.subarray(0, length)));
  }

  /**
   * Checks, at most once, every chunk that holds one of these data pages, for a caller that reads
   * them from the file itself. Blocks, because a guest's page fault waits for it.
   * @throws snapshot.corrupt
   */
  verify(position: number, pageCount: number): void {
    for (const { index } of this.partsOf(position, pageCount)) {
      if (this.#verified[index] === 1) continue;
      using buffer = takeChunkBuffer();
      const { offset, length } = this.#extentOf(index);
      const bytesRead = readSync(this.#fd, buffer.bytes, 0, length, offset);
      this.#assertWhole(offset + bytesRead, offset + length);
      this.#compare(index, hash("sha256", buffer.bytes.subarray(0, length)));
    }
  }

  /** Closes the file. ORDER: only after every read has settled. Disposing again does nothing. */
  [Symbol.dispose](): void {
    this.#chunk?.[Symbol.dispose]();
    this.#file[Symbol.dispose]();
  }

  #extentOf(index: number): { readonly offset: number; readonly length: number } {
    const offset = index * chunkBytes;
    return { offset, length: Math.min(chunkBytes, this.sizeBytes - offset) };
  }

  #assertWhole(endBytes: number, wantedEndBytes: number): void {
    if (endBytes !== wantedEndBytes) throw corrupt(`${this.#path} ends early, at byte ${endBytes}`);
  }

  #compare(index: number, found: string): void {
    if (found !== this.#digest.chunkSha256[index]) {
      const { offset } = this.#extentOf(index);
      throw corrupt(`${this.#path} does not match its checksum at byte ${offset}`);
    }
    this.#verified[index] = 1;
  }
}

function orCorrupt<T>(what: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    throw corrupt(what, cause);
  }
}

function corrupt(what: string, cause?: unknown): TorporError {
  return new TorporError("snapshot.corrupt", what, { cause });
}
