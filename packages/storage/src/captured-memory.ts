/**
 * A copy of the pages that a guest may have changed, taken while its vCPUs are held, so that they
 * can continue before the pages are compared and written.
 */
import { type MemoryMapping, readMemory, writeMemory } from "@torpor/native";
import { type MemoryRange, assert, totalBytes } from "@torpor/std";
import { chunkBytes, takeChunkBuffer } from "./chunk-buffers.ts";
import type { ReadableMemory } from "./memory-stack.ts";

interface CapturedRange extends MemoryRange {
  /** Where the copy of this range begins, in this process. */
  readonly address: number;
}

/** The captured ranges of a guest's memory; reads outside of them are a bug. */
export class CapturedMemory implements ReadableMemory {
  readonly sizeBytes: number;
  readonly #captured: readonly CapturedRange[];

  private constructor(sizeBytes: number, captured: readonly CapturedRange[]) {
    this.sizeBytes = sizeBytes;
    this.#captured = captured;
  }

  /**
   * Copies `ranges`, ascending, of `memory`.
   * @param room Receives the copy: at least as long as the ranges together. The caller keeps it
   * mapped for as long as this is read.
   */
  static async capture(
    memory: ReadableMemory,
    ranges: readonly MemoryRange[],
    room: MemoryMapping,
  ): Promise<CapturedMemory> {
    assert(totalBytes(ranges) <= room.lengthBytes, "there is room for what is captured");
    if (memory.readTo === undefined) readPieces(memory, ranges, room.address);
    else await memory.readTo(ranges, room.address);
    let address = room.address;
    const captured = ranges.map((range) => {
      const one = { ...range, address };
      address += range.endBytes - range.startBytes;
      return one;
    });
    return new CapturedMemory(memory.sizeBytes, captured);
  }

  ownRanges(): readonly MemoryRange[] {
    return this.#captured;
  }

  read(offsetBytes: number, into: Uint8Array): void {
    const range = this.#find(offsetBytes);
    const start = offsetBytes - range.startBytes;
    assert(offsetBytes + into.length <= range.endBytes, "what is read was captured");
    readMemory(range.address + start, into);
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

/** Collects short ranges first: there are hundreds, and each call into memory has its price. */
function readPieces(memory: ReadableMemory, ranges: readonly MemoryRange[], to: number): void {
  using chunk = takeChunkBuffer();
  let [address, filledBytes] = [to, 0];
  const put = (): void => {
    writeMemory(address, chunk.bytes.subarray(0, filledBytes));
    address += filledBytes;
    filledBytes = 0;
  };
  for (const { startBytes, endBytes } of ranges) {
    for (let at = startBytes; at < endBytes;) {
      const lengthBytes = Math.min(endBytes - at, chunkBytes - filledBytes);
      memory.read(at, chunk.bytes.subarray(filledBytes, filledBytes + lengthBytes));
      at += lengthBytes;
      filledBytes += lengthBytes;
      if (filledBytes === chunkBytes) put();
    }
  }
  put();
}
