/**
 * A fake VM's memory: a private copy of the image, and a record of the pages that the VM or the
 * host has written.
 */
import { readFileSync } from "node:fs";
import type { MemoryPiece, MemoryRange } from "@torpor/std";
import type { GuestMemory } from "@torpor/vmm";
import { patternOf, textOf } from "./pattern.ts";

/** The size of a page. */
export const pageBytes = 4096;

/** The memory of one fake VM. */
export class FakeMemory implements GuestMemory {
  readonly #bytes: Buffer;
  readonly #own: Uint8Array;

  constructor(imagePath: string, sizeBytes: number) {
    this.#bytes = Buffer.alloc(sizeBytes);
    readFileSync(imagePath).copy(this.#bytes);
    this.#own = new Uint8Array(sizeBytes / pageBytes);
  }

  get sizeBytes(): number {
    return this.#bytes.length;
  }

  /** The present content; not to be written. */
  get bytes(): Buffer {
    return this.#bytes;
  }

  estimateOwnBytes(): number {
    return this.#own.reduce((sum, isOwn) => sum + isOwn * pageBytes, 0);
  }

  ownRanges(): readonly MemoryRange[] {
    const ranges: MemoryRange[] = [];
    for (let page = 0; page < this.#own.length; page += 1) {
      if (this.#own[page] === 0) continue;
      let end = page + 1;
      while (end < this.#own.length && this.#own[end] !== 0) end += 1;
      ranges.push({ startBytes: page * pageBytes, endBytes: end * pageBytes });
      page = end;
    }
    return ranges;
  }

  usedRanges(): readonly MemoryRange[] {
    return this.ownRanges();
  }

  read(offsetBytes: number, into: Uint8Array): void {
    into.set(this.#bytes.subarray(offsetBytes, offsetBytes + into.length));
  }

  async write(pieces: readonly MemoryPiece[]): Promise<void> {
    for (const { offsetBytes, bytes } of pieces) this.writeAt(offsetBytes, bytes);
    await Promise.resolve();
  }

  writeAt(offsetBytes: number, from: Uint8Array): void {
    this.#bytes.set(from, offsetBytes);
    const lastPage = Math.ceil((offsetBytes + from.length) / pageBytes);
    this.#own.fill(1, Math.floor(offsetBytes / pageBytes), lastPage);
  }

  readPage(page: number): string {
    return textOf(this.pageBytesOf(page));
  }

  writePage(page: number, text: string): void {
    this.writeAt(page * pageBytes, patternOf(text, pageBytes));
  }

  pageBytesOf(page: number): Buffer {
    return this.#bytes.subarray(page * pageBytes, (page + 1) * pageBytes);
  }
}
