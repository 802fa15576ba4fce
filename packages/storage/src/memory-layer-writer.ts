/**
 * Writes a layer page by page, in ascending order, over an abandoned one in the folder. Not
 * flushed: the layer becomes durable with the snapshot it is published in.
 *
 * Node's thread pool writes and hashes a chunk while the next one is collected: a guest may be
 * stopped for as long as all of it takes.
 */
import { hash } from "node:crypto";
import { type FileHandle, open, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { sha256InBackground } from "@torpor/native";
import { type ChunkBuffer, chunkBytes, takeChunkBuffer } from "./chunk-buffers.ts";
import { type MemoryLayerDigest, layerFiles } from "./memory-layer.ts";
import {
  type PageRun,
  appendPage,
  countPages,
  encodePageMap,
  stateData,
  stateZero,
} from "./page-map.ts";
import { writeWhole } from "./whole-io.ts";

const chunksInFlightMax = 16;

/** A memory layer in the making; `finish` completes it. */
export class MemoryLayerWriter implements AsyncDisposable {
  readonly #folder: string;
  readonly #file: FileHandle;
  readonly #runs: PageRun[] = [];
  readonly #finished: Promise<string>[] = [];
  #chunk = takeChunkBuffer();
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
    this.#chunk.bytes.set(content, this.#filledBytes);
    this.#filledBytes += content.length;
    if (this.#filledBytes === chunkBytes) this.#finishChunk();
  }

  /** Waits until few enough chunks are on their way: a large guest must not fill the host's memory. */
  async catchUp(): Promise<void> {
    await this.#finished.at(-chunksInFlightMax);
  }

  /** Completes the layer: both files are written once this returns. */
  async finish(): Promise<MemoryLayerDigest> {
    if (this.#filledBytes > 0) this.#finishChunk();
    const chunkSha256 = await Promise.all(this.#finished);
    const map = encodePageMap(this.#runs);
    await writeFile(join(this.#folder, layerFiles.map), map, { mode: 0o600 });
    return {
      dataPages: countPages(this.#runs, stateData),
      zeroPages: countPages(this.#runs, stateZero),
      mapSha256: hash("sha256", map),
      chunkSha256,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#finished);
    this.#chunk[Symbol.dispose]();
    await this.#file.close();
  }

  #finishChunk(): void {
    const written = this.#write(this.#chunk, this.#filledBytes, this.#finished.length * chunkBytes);
    // `finish` awaits this; until then a failure must not count as unhandled.
    written.catch(() => undefined);
    this.#finished.push(written);
    this.#chunk = takeChunkBuffer();
    this.#filledBytes = 0;
  }

  async #write(buffer: ChunkBuffer, lengthBytes: number, offsetBytes: number): Promise<string> {
    const chunk = buffer.bytes.subarray(0, lengthBytes);
    const hashed = sha256InBackground(chunk);
    const written = writeWhole(this.#file, chunk, offsetBytes);
    // ORDER: both are done with the buffer before it is used again, also when one of them fails.
    await Promise.allSettled([hashed, written]);
    buffer[Symbol.dispose]();
    await written;
    return await hashed;
  }
}
