/**
 * Layers above a template's image, seen as one memory: the newest layer that names a page decides.
 *
 * A pause writes a layer of the pages that differ from the stack; a resume writes the stack's pages
 * over a fresh private mapping of the image, or asks of each page where it comes from; a fold makes one
 * layer of several. Only the first two know the image, and none changes it.
 */
import { readSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { setImmediate as yieldToOthers } from "node:timers/promises";
import { assert } from "@torpor/std";
import {
  MemoryLayer,
  type MemoryLayerDigest,
  MemoryLayerWriter,
  layerChunkBytes,
} from "./memory-layer.ts";
import { pageBytes, stateZero } from "./page-map.ts";

const zeroPage = Buffer.alloc(pageBytes);
const zeroChunk = Buffer.alloc(layerChunkBytes);
/** Where a page comes from: the image, zeros, or layer `source - firstLayer`. */
const fromImage = 0;
const fromZeros = 1;
const firstLayer = 2;
/** LIMIT: of chunks that are looked at together; more are no faster and crowd out the event loop. */
const lanesMax = 2;
/** LIMIT: of a chain; sources are kept in a byte each. */
const layersMax = 250;

export interface ByteRange {
  readonly startBytes: number;
  readonly endBytes: number;
}

/** The guest's memory while its vCPUs are held. */
export interface ReadableMemory {
  readonly sizeBytes: number;
  /** Ranges that may differ from the image, ascending. */
  ownRanges(): readonly ByteRange[];
  read(offsetBytes: number, into: Uint8Array): void;
}

export interface WritableMemory {
  write(offsetBytes: number, from: Uint8Array): void;
}

export interface StackedLayer {
  readonly folder: string;
  readonly digest: MemoryLayerDigest;
}

/** Consecutive pages from one place. */
interface Stretch {
  readonly firstPage: number;
  readonly pageCount: number;
  readonly source: number;
  /** Of the first page among the layer's data pages. */
  readonly position: number;
}

/** The same for others; a layer is counted from the oldest. */
export type PageOrigin =
  | { readonly from: "image" | "zeros"; readonly pageCount: number }
  | {
      readonly from: "layer";
      readonly pageCount: number;
      readonly layer: number;
      readonly position: number;
    };

export class MemoryStack implements AsyncDisposable {
  readonly #layers: readonly MemoryLayer[];
  /** For each page where it comes from, and where in there. */
  readonly #sources: Uint8Array;
  readonly #positions: Uint32Array;

  private constructor(layers: readonly MemoryLayer[], sizeBytes: number) {
    this.#layers = layers;
    this.#sources = new Uint8Array(sizeBytes / pageBytes);
    this.#positions = new Uint32Array(sizeBytes / pageBytes);
    for (const [index, layer] of layers.entries()) this.#cover(layer, firstLayer + index);
  }

  /**
   * @param layers Oldest first; none is a stack that shows the image.
   * @throws snapshot.corrupt naming the file.
   */
  static async open(layers: readonly StackedLayer[], sizeBytes: number): Promise<MemoryStack> {
    assert(layers.length <= layersMax, `a stack has at most ${layersMax} layers`);
    await using undo = new AsyncDisposableStack();
    const opened: MemoryLayer[] = [];
    for (const { folder, digest } of layers) {
      opened.push(undo.use(await MemoryLayer.open(folder, digest, sizeBytes)));
    }
    const stack = new MemoryStack(opened, sizeBytes);
    undo.move();
    return stack;
  }

  get sizeBytes(): number {
    return this.#sources.length * pageBytes;
  }

  /** The pages that the layers decide, ascending. */
  ranges(): readonly ByteRange[] {
    return joinPages(this.#sources);
  }

  /** Oldest first. */
  get layers(): readonly MemoryLayer[] {
    return this.#layers;
  }

  /** Where a page comes from, and how many from it on, at most `pagesMax`, follow there one by one. */
  originOf(page: number, pagesMax: number): PageOrigin {
    const endMax = Math.min(page + pagesMax, this.#sources.length);
    let end = page + 1;
    while (end < endMax && this.#follows(end)) end += 1;
    const pageCount = end - page;
    const source = this.#sources[page] ?? fromImage;
    if (source === fromImage) return { from: "image", pageCount };
    if (source === fromZeros) return { from: "zeros", pageCount };
    const position = this.#positions[page] ?? 0;
    return { from: "layer", pageCount, layer: source - firstLayer, position };
  }

  /**
   * Looks at all that `applyTo` will read, in the background of whoever has something to wait for. The
   * stack stays open until this settles.
   * @throws snapshot.corrupt
   */
  async verifyAhead(): Promise<void> {
    const chunks = [...this.#chunksToRead()];
    const runLane = async (): Promise<void> => {
      const buffer = Buffer.allocUnsafeSlow(layerChunkBytes);
      for (let next = chunks.shift(); next !== undefined; next = chunks.shift()) {
        await next.layer.verifyAhead(next.index, buffer);
      }
    };
    await Promise.all(Array.from({ length: Math.min(lanesMax, chunks.length) }, runLane));
  }

  /** Writes the stack's pages over memory that holds the image. @throws snapshot.corrupt */
  async applyTo(memory: WritableMemory): Promise<void> {
    for (const stretch of this.#stretches()) {
      await this.#copy(stretch, (page, bytes) => memory.write(page * pageBytes, bytes));
    }
  }

  /** Makes one layer in `folder` with the meaning of all of these. @throws snapshot.corrupt */
  async fold(folder: string): Promise<MemoryLayerDigest> {
    await using writer = await MemoryLayerWriter.create(folder);
    for (const stretch of this.#stretches()) {
      await this.#copy(stretch, (firstPage, bytes) => {
        for (let offset = 0; offset < bytes.length; offset += pageBytes) {
          const page = firstPage + offset / pageBytes;
          if (stretch.source === fromZeros) writer.addZero(page);
          else writer.addData(page, bytes.subarray(offset, offset + pageBytes));
        }
      });
      await writer.catchUp();
    }
    return await writer.finish();
  }

  /**
   * Where `memory` may differ from this stack: its own pages, and whatever the layers name, because
   * one of those may have gone back to the image's.
   */
  rangesToCompare(memory: ReadableMemory): readonly ByteRange[] {
    const wanted = Uint8Array.from(this.#sources);
    for (const { startBytes, endBytes } of memory.ownRanges()) {
      wanted.fill(1, startBytes / pageBytes, endBytes / pageBytes);
    }
    return joinPages(wanted);
  }

  /** Writes into `folder` a layer of what in `memory` differs from this stack above the image. */
  async writeDifference(
    folder: string,
    imagePath: string,
    memory: ReadableMemory,
  ): Promise<MemoryLayerDigest> {
    await using image = await open(imagePath, "r");
    await using writer = await MemoryLayerWriter.create(folder);
    const compare = new Comparison(this, image, memory, writer);
    for (const range of this.rangesToCompare(memory)) await compare.run(range);
    return await writer.finish();
  }

  /**
   * Fills `into` with what this stack says of memory from `offsetBytes` on. Not verified: it is only
   * compared with, and a damaged page that differs from the guest's is stored anew.
   */
  readBelow(image: FileHandle, offsetBytes: number, into: Buffer): void {
    // The image may be sparse, but it is never shorter than the guest's memory.
    readSync(image.fd, into, 0, into.length, offsetBytes);
    const firstPage = offsetBytes / pageBytes;
    for (const stretch of this.#stretches(firstPage, firstPage + into.length / pageBytes)) {
      const start = (stretch.firstPage - firstPage) * pageBytes;
      const part = into.subarray(start, start + stretch.pageCount * pageBytes);
      const layer = this.#layers[stretch.source - firstLayer];
      if (layer === undefined) part.fill(0);
      else readSync(layer.fd, part, 0, part.length, stretch.position * pageBytes);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const layer of this.#layers) await layer[Symbol.asyncDispose]();
  }

  #cover(layer: MemoryLayer, source: number): void {
    let position = 0;
    for (const { firstPage, pageCount, state } of layer.runs) {
      this.#sources.fill(
        state === stateZero ? fromZeros : source,
        firstPage,
        firstPage + pageCount,
      );
      if (state === stateZero) continue;
      for (let page = 0; page < pageCount; page += 1) {
        this.#positions[firstPage + page] = position + page;
      }
      position += pageCount;
    }
  }

  *#chunksToRead(): Generator<{ readonly layer: MemoryLayer; readonly index: number }> {
    const seen = this.#layers.map(() => new Set<number>());
    for (const { source, position, pageCount } of this.#stretches()) {
      const layer = this.#layers[source - firstLayer];
      for (const index of layer?.chunksOf(position, pageCount) ?? []) {
        const known = seen[source - firstLayer];
        if (layer === undefined || known === undefined || known.has(index)) continue;
        known.add(index);
        yield { layer, index };
      }
    }
  }

  /** Pages that the layers decide, joined while they follow each other where they come from. */
  *#stretches(startPage = 0, endPage = this.#sources.length): Generator<Stretch> {
    let page = startPage;
    while (page < endPage) {
      const source = this.#sources[page] ?? fromImage;
      const position = this.#positions[page] ?? 0;
      let end = page + 1;
      while (end < endPage && this.#follows(end)) end += 1;
      if (source !== fromImage) yield { firstPage: page, pageCount: end - page, source, position };
      page = end;
    }
  }

  /** Whether a page comes from the place after that of the page before it. */
  #follows(page: number): boolean {
    const source = this.#sources[page] ?? fromImage;
    if (source !== this.#sources[page - 1]) return false;
    return source < firstLayer || this.#positions[page] === (this.#positions[page - 1] ?? 0) + 1;
  }

  async #copy(
    { firstPage, pageCount, source, position }: Stretch,
    put: (page: number, bytes: Buffer) => void,
  ): Promise<void> {
    const layer = this.#layers[source - firstLayer];
    for (let done = 0; done < pageCount;) {
      const left = pageCount - done;
      const bytes =
        layer === undefined
          ? zeroChunk.subarray(0, left * pageBytes)
          : await layer.read(position + done, left);
      put(firstPage + done, bytes);
      done += bytes.length / pageBytes;
    }
  }
}

/** The pages that are not 0, as ranges. */
function joinPages(pages: Uint8Array): readonly ByteRange[] {
  const ranges: ByteRange[] = [];
  for (let page = 0; page < pages.length; page += 1) {
    if (pages[page] === 0) continue;
    let end = page + 1;
    while (end < pages.length && pages[end] !== 0) end += 1;
    ranges.push({ startBytes: page * pageBytes, endBytes: end * pageBytes });
    page = end;
  }
  return ranges;
}

/**
 * Compares ranges of memory with a stack, page by page.
 *
 * Reads are synchronous: the guest may stand still meanwhile, there are hundreds of short ranges, and
 * a trip through the thread pool for each costs more than the read. Others get their turn regularly.
 */
class Comparison {
  readonly #below: MemoryStack;
  readonly #image: FileHandle;
  readonly #memory: ReadableMemory;
  readonly #writer: MemoryLayerWriter;
  readonly #now = Buffer.alloc(layerChunkBytes);
  readonly #before = Buffer.alloc(layerChunkBytes);
  #bytesSinceTurn = 0;

  constructor(
    below: MemoryStack,
    image: FileHandle,
    memory: ReadableMemory,
    writer: MemoryLayerWriter,
  ) {
    this.#below = below;
    this.#image = image;
    this.#memory = memory;
    this.#writer = writer;
  }

  async run(range: ByteRange): Promise<void> {
    for (let start = range.startBytes; start < range.endBytes; start += layerChunkBytes) {
      const lengthBytes = Math.min(layerChunkBytes, range.endBytes - start);
      const now = this.#now.subarray(0, lengthBytes);
      const before = this.#before.subarray(0, lengthBytes);
      this.#memory.read(start, now);
      this.#below.readBelow(this.#image, start, before);
      this.#comparePages(start / pageBytes, now, before);
      this.#bytesSinceTurn += lengthBytes;
      if (this.#bytesSinceTurn < layerChunkBytes) continue;
      this.#bytesSinceTurn = 0;
      await yieldToOthers();
      await this.#writer.catchUp();
    }
  }

  #comparePages(firstPage: number, now: Buffer, before: Buffer): void {
    for (let offset = 0; offset < now.length; offset += pageBytes) {
      const end = offset + pageBytes;
      if (now.compare(before, offset, end, offset, end) === 0) continue;
      const page = firstPage + offset / pageBytes;
      if (now.compare(zeroPage, 0, pageBytes, offset, end) === 0) this.#writer.addZero(page);
      else this.#writer.addData(page, now.subarray(offset, end));
    }
  }
}
