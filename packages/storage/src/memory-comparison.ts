/**
 * Compares ranges of memory with a stack, page by page, and gives a layer writer the pages that
 * differ.
 *
 * Reads are synchronous: the guest may be stopped during them, there are hundreds of short ranges,
 * and a trip through the thread pool for each costs more than the read. The comparison yields to
 * the event loop regularly.
 */
import type { FileHandle } from "node:fs/promises";
import { setImmediate as yieldToOthers } from "node:timers/promises";
import type { MemoryRange } from "@torpor/std";
import { chunkBytes, takeChunkBuffer } from "./chunk-buffers.ts";
import type { MemoryLayerWriter } from "./memory-layer-writer.ts";
import type { MemoryStack, ReadableMemory } from "./memory-stack.ts";
import { pageBytes } from "./page-map.ts";

const zeroPage = Buffer.alloc(pageBytes);

/** Compares the memory of one guest with the stack below it and the template's image. */
export class MemoryComparison implements Disposable {
  readonly #below: MemoryStack;
  readonly #image: FileHandle;
  readonly #memory: ReadableMemory;
  readonly #writer: MemoryLayerWriter;
  readonly #now = takeChunkBuffer();
  readonly #before = takeChunkBuffer();
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

  async run(range: MemoryRange): Promise<void> {
    for (let start = range.startBytes; start < range.endBytes; start += chunkBytes) {
      const lengthBytes = Math.min(chunkBytes, range.endBytes - start);
      const now = this.#now.bytes.subarray(0, lengthBytes);
      const before = this.#before.bytes.subarray(0, lengthBytes);
      this.#memory.read(start, now);
      this.#below.readBelow(this.#image, start, before);
      this.#comparePages(start / pageBytes, now, before);
      this.#bytesSinceTurn += lengthBytes;
      if (this.#bytesSinceTurn < chunkBytes) continue;
      this.#bytesSinceTurn = 0;
      await yieldToOthers();
      await this.#writer.catchUp();
    }
  }

  [Symbol.dispose](): void {
    this.#now[Symbol.dispose]();
    this.#before[Symbol.dispose]();
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
