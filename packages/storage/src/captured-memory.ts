/**
 * A copy of what a guest may have changed, taken while its vCPUs are held, so that they may go on
 * before the pages are compared and written.
 */
import { type MemoryRange, assert, totalBytes } from "@torpor/std";
import type { ReadableMemory } from "./memory-stack.ts";

interface CapturedRange extends MemoryRange {
  readonly content: Buffer;
}

export class CapturedMemory implements ReadableMemory {
  readonly sizeBytes: number;
  readonly #captured: readonly CapturedRange[];

  /**
   * Copies `ranges`, ascending, of `memory`.
   * @param room Where to, if it is enough: memory that has been touched is filled twice as fast.
   */
  constructor(memory: ReadableMemory, ranges: readonly MemoryRange[], room?: Buffer) {
    this.sizeBytes = memory.sizeBytes;
    const bytes = totalBytes(ranges);
    const into = room !== undefined && room.length >= bytes ? room : Buffer.allocUnsafe(bytes);
    let filledBytes = 0;
    this.#captured = ranges.map((range) => {
      const length = range.endBytes - range.startBytes;
      const content = into.subarray(filledBytes, filledBytes + length);
      filledBytes += length;
      memory.read(range.startBytes, content);
      return { ...range, content };
    });
  }

  ownRanges(): readonly MemoryRange[] {
    return this.#captured;
  }

  read(offsetBytes: number, into: Uint8Array): void {
    const range = this.#find(offsetBytes);
    const start = offsetBytes - range.startBytes;
    assert(start + into.length <= range.content.length, "what is read was captured");
    into.set(range.content.subarray(start, start + into.length));
  }

  #find(offsetBytes: number): CapturedRange {
    let low = 0;
    let high = this.#captured.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      const startsAfter = (this.#captured[middle]?.startBytes ?? 0) > offsetBytes;
      if (startsAfter) high = middle - 1;
      else low = middle;
    }
    const found = this.#captured[low];
    assert(found !== undefined && offsetBytes >= found.startBytes, "what is read was captured");
    return found;
  }
}
