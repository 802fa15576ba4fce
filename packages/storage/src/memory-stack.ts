/**
 * Layers above a template's image, seen as one memory: the newest layer that names a page decides.
 *
 * A pause writes a layer of the pages that differ from the stack; a resume writes the stack's pages
 * over a fresh private mapping of the image, or asks for the origin of each page; a fold makes one
 * layer of several. Only the first two know the image, and none changes it.
 */
import { readSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { type MemoryPiece, type MemoryRange, assert, joinRanges } from "@torpor/std";
import { chunkBytes, takeChunkBuffer } from "./chunk-buffers.ts";
import { runLanes } from "./lanes.ts";
import { MemoryComparison } from "./memory-comparison.ts";
import { MemoryLayerWriter } from "./memory-layer-writer.ts";
import { MemoryLayer, type MemoryLayerDigest } from "./memory-layer.ts";
import { type PageRun, pageBytes, stateZero } from "./page-map.ts";

const pagesPerChunk = chunkBytes / pageBytes;
const zeroChunk = Buffer.alloc(chunkBytes);
/** Where a page comes from: the image, zeros, or layer `source - firstLayer`. */
const fromImage = 0;
const fromZeros = 1;
const firstLayer = 2;
/** LIMIT: chunks that are written together; more are no faster and crowd out the event loop. */
const lanesMax = 2;
/** LIMIT: layers in a chain; sources are kept in a byte each. */
const layersMax = 250;

/** The guest's memory while its vCPUs are held. */
export interface ReadableMemory {
  readonly sizeBytes: number;
  /** Ranges that may differ from the image, ascending. */
  ownRanges(): readonly MemoryRange[];
  read(offsetBytes: number, into: Uint8Array): void;
  /** Reads `ranges`, one behind the other, to an address, where that is faster than `read`. */
  readTo?(ranges: readonly MemoryRange[], address: number): Promise<void>;
}

/** Guest memory that a stack is written into. */
export interface WritableMemory {
  /** The pieces stay as they are until it settles. */
  write(pieces: readonly MemoryPiece[]): Promise<void>;
}

/** A layer of a stack: its folder, and the checksums from the manifest. */
export interface StackedLayer {
  readonly folder: string;
  readonly digest: MemoryLayerDigest;
}

/** Consecutive pages from one place. */
interface Stretch {
  readonly firstPage: number;
  readonly pageCount: number;
  readonly source: number;
  /** The position of the first page among the layer's data pages. */
  readonly position: number;
}

/** The pages of one chunk of a layer that the stack uses. */
interface ChunkUse {
  readonly layer: MemoryLayer;
  readonly index: number;
  readonly pieces: readonly ChunkPiece[];
}

/** Pages of a chunk from `chunkPage` on, which belong at `page` of memory and after it. */
interface ChunkPiece {
  readonly page: number;
  readonly chunkPage: number;
  readonly pageCount: number;
}

/** A stretch of pages as callers see it; layers are counted from the oldest. */
export type PageOrigin =
  | { readonly from: "image" | "zeros"; readonly pageCount: number }
  | {
      readonly from: "layer";
      readonly pageCount: number;
      readonly layer: number;
      readonly position: number;
    };

/** The memory that a chain of layers above a template's image amounts to. */
export class MemoryStack implements AsyncDisposable {
  readonly #layers: readonly MemoryLayer[];
  /** For each page, the source it comes from, and where in that source. */
  readonly #sources: Uint8Array;
  readonly #positions: Uint32Array;
  /** The pages that the layers decide, ascending and apart from each other. */
  readonly #decided: readonly MemoryRange[];
  #uses: readonly ChunkUse[] | undefined;
  #verifying: Promise<void> | undefined;
  #stopsVerifying = false;

  private constructor(layers: readonly MemoryLayer[], sizeBytes: number) {
    this.#layers = layers;
    this.#sources = new Uint8Array(sizeBytes / pageBytes);
    this.#positions = new Uint32Array(sizeBytes / pageBytes);
    for (const [index, layer] of layers.entries()) this.#cover(layer, firstLayer + index);
    this.#decided = joinRanges(layers.flatMap(({ runs }) => runs.map(bytesOfRun)));
  }

  /**
   * Opens every layer and merges their maps.
   * @param layers Oldest first; an empty list is a stack that shows the image.
   * @throws snapshot.corrupt naming the file.
   */
  static async open(layers: readonly StackedLayer[], sizeBytes: number): Promise<MemoryStack> {
    assert(layers.length <= layersMax, `a stack has at most ${layersMax} layers`);
    using undo = new DisposableStack();
    const opened: MemoryLayer[] = [];
    for (const { folder, digest } of layers) {
      opened.push(undo.use(MemoryLayer.open(folder, digest, sizeBytes)));
    }
    const stack = new MemoryStack(opened, sizeBytes);
    undo.move();
    return stack;
  }

  get sizeBytes(): number {
    return this.#sources.length * pageBytes;
  }

  /** The pages that the layers decide, ascending. */
  ranges(): readonly MemoryRange[] {
    return this.#decided;
  }

  /** The layers, oldest first. */
  get layers(): readonly MemoryLayer[] {
    return this.#layers;
  }

  /**
   * Where a page comes from, and how many pages from it on, at most `pagesMax`, follow each other
   * there.
   */
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
   * Begins to check what `applyTo` will read, while the caller waits for something else. `applyTo`
   * checks what is left, and reports damage.
   */
  verifyAhead(): void {
    this.#verifying = this.#verifyUntilStopped();
    this.#verifying.catch(() => undefined);
  }

  /** Writes the stack's pages over memory that holds the image. @throws snapshot.corrupt */
  async applyTo(memory: WritableMemory): Promise<void> {
    await this.#stopVerifying();
    await memory.write(this.#zeroPieces());
    await runLanes(lanesMax, this.#chunkUses(), async (uses) => {
      using buffer = takeChunkBuffer();
      for (const { layer, index, pieces } of uses) {
        await layer.load(index, buffer.bytes);
        await memory.write(pieces.map((piece) => memoryPiece(piece, buffer.bytes)));
      }
    });
  }

  /** Merges all layers into one in `folder`. @throws snapshot.corrupt */
  async fold(folder: string): Promise<MemoryLayerDigest> {
    await using writer = await MemoryLayerWriter.create(folder);
    for (const stretch of this.#decidedStretches()) {
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
   * The ranges where `memory` may differ from this stack: its own pages, and every page that the
   * layers name, because one of those may be back at the image's content.
   */
  rangesToCompare(memory: ReadableMemory): readonly MemoryRange[] {
    return joinRanges([...this.#decided, ...memory.ownRanges()]);
  }

  /**
   * Writes into `folder` a layer of the pages of `memory` that differ from this stack above the
   * image.
   */
  async writeDifference(
    folder: string,
    imagePath: string,
    memory: ReadableMemory,
  ): Promise<MemoryLayerDigest> {
    await using image = await open(imagePath, "r");
    await using writer = await MemoryLayerWriter.create(folder);
    using compare = new MemoryComparison(this, image, memory, writer);
    for (const range of this.rangesToCompare(memory)) await compare.run(range);
    return await writer.finish();
  }

  /**
   * Fills `into` with the stack's content from `offsetBytes` on. Not verified: it is only compared
   * with, and a damaged page that differs from the guest's is stored again.
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
    await this.#stopVerifying().catch(() => undefined);
    for (const layer of this.#layers) layer[Symbol.dispose]();
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

  async #verifyUntilStopped(): Promise<void> {
    using buffer = takeChunkBuffer();
    for (const { layer, index } of this.#chunkUses()) {
      if (this.#stopsVerifying) return;
      await layer.load(index, buffer.bytes);
    }
  }

  async #stopVerifying(): Promise<void> {
    this.#stopsVerifying = true;
    await this.#verifying;
  }

  #zeroPieces(): readonly MemoryPiece[] {
    const pieces: MemoryPiece[] = [];
    for (const { source, firstPage, pageCount } of this.#decidedStretches()) {
      if (source !== fromZeros) continue;
      for (let done = 0; done < pageCount; done += pagesPerChunk) {
        const lengthBytes = Math.min(pagesPerChunk, pageCount - done) * pageBytes;
        const offsetBytes = (firstPage + done) * pageBytes;
        pieces.push({ offsetBytes, bytes: zeroChunk.subarray(0, lengthBytes) });
      }
    }
    return pieces;
  }

  /** Lists each chunk once, so that it need not be read again for pages elsewhere in memory. */
  #chunkUses(): readonly ChunkUse[] {
    return (this.#uses ??= this.#findChunkUses());
  }

  #findChunkUses(): readonly ChunkUse[] {
    const uses = this.#layers.map((layer) => ({
      layer,
      piecesOf: new Map<number, ChunkPiece[]>(),
    }));
    for (const { source, position, firstPage, pageCount } of this.#decidedStretches()) {
      const use = uses[source - firstLayer];
      if (use === undefined) continue;
      let page = firstPage;
      for (const part of use.layer.partsOf(position, pageCount)) {
        const piece = { page, chunkPage: part.firstPage, pageCount: part.pageCount };
        const pieces = use.piecesOf.get(part.index);
        if (pieces === undefined) use.piecesOf.set(part.index, [piece]);
        else pieces.push(piece);
        page += part.pageCount;
      }
    }
    return uses.flatMap(({ layer, piecesOf }) =>
      [...piecesOf].map(([index, pieces]) => ({ layer, index, pieces })),
    );
  }

  *#decidedStretches(): Generator<Stretch> {
    for (const { startBytes, endBytes } of this.#decided) {
      yield* this.#stretches(startBytes / pageBytes, endBytes / pageBytes);
    }
  }

  /**
   * Lists the pages in this range that the layers decide, joined while they are adjacent in their
   * source.
   */
  *#stretches(startPage: number, endPage: number): Generator<Stretch> {
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

  /** Whether a page comes from the place directly after that of the page before it. */
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

function memoryPiece({ page, chunkPage, pageCount }: ChunkPiece, chunk: Buffer): MemoryPiece {
  const bytes = chunk.subarray(chunkPage * pageBytes, (chunkPage + pageCount) * pageBytes);
  return { offsetBytes: page * pageBytes, bytes };
}

function bytesOfRun({ firstPage, pageCount }: PageRun): MemoryRange {
  return { startBytes: firstPage * pageBytes, endBytes: (firstPage + pageCount) * pageBytes };
}
