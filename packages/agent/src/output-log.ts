/**
 * The latest output of one process, for clients that reconnect and need what they missed.
 *
 * Every byte has an offset in its stream, counted from the process's start. The log holds the
 * newest pieces in the order in which they were read, the streams interleaved, and knows for each
 * stream at which offset it begins and ends.
 *
 * INVARIANT: it holds at most `bytesMax`, and all logs together what their budget allows; the
 * oldest piece is discarded first. The held part of a stream has no gaps.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { BudgetedLog, LogBudget } from "./log-budget.ts";

/** A stream that a process prints to; `pty` is its terminal. */
export type OutputKind = "stdout" | "stderr" | "pty";

/** An offset in each stream of a process. */
export type OutputOffsets = ReadonlyMap<OutputKind, number>;

/** Consecutive bytes of one stream. */
export interface OutputPiece {
  readonly kind: OutputKind;
  readonly bytes: Uint8Array;
}

interface HeldPiece extends OutputPiece {
  /** Offset of its first byte. */
  readonly start: number;
}

interface Extent {
  /** Offset of the first byte that is still held. */
  start: number;
  /** Offset of the next byte to come. */
  end: number;
}

/** Bytes that a piece counts for, in addition to its own. */
const pieceBytes = 128;
/** Consecutive small pieces of one stream are merged up to this size. */
const mergedBytesMax = 4096;

/** The log of one process. */
export class OutputLog implements BudgetedLog {
  readonly #budget: LogBudget;
  readonly #bytesMax: number;
  readonly #extents: ReadonlyMap<OutputKind, Extent>;
  /**
   * SNAPSHOT: output from before a restore stays, for clients whose connections the restore
   * destroyed.
   */
  readonly #pieces: HeldPiece[] = [];
  #heldBytes = 0;

  constructor(kinds: readonly OutputKind[], bytesMax: number, budget: LogBudget) {
    this.#budget = budget;
    this.#bytesMax = bytesMax;
    this.#extents = new Map(kinds.map((kind) => [kind, { start: 0, end: 0 }]));
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** The offset of the next byte of each stream. */
  get ends(): OutputOffsets {
    return new Map(Array.from(this.#extents, ([kind, { end }]) => [kind, end]));
  }

  append(kind: OutputKind, bytes: Uint8Array): void {
    const extent = this.#extentOf(kind);
    const last = this.#pieces.at(-1);
    if (last?.kind === kind && last.bytes.length + bytes.length <= mergedBytesMax) {
      this.#pieces.pop();
      this.#pieces.push({ ...last, bytes: Buffer.concat([last.bytes, bytes]) });
      this.#change(bytes.length);
    } else {
      this.#pieces.push({ kind, bytes, start: extent.end });
      this.#change(bytes.length + pieceBytes);
    }
    extent.end += bytes.length;
    while (this.#heldBytes > this.#bytesMax) this.dropOldest();
  }

  /** Everything printed from these offsets on, in order. @throws ConnectError out_of_range */
  since(offsets: OutputOffsets): readonly OutputPiece[] {
    for (const [kind, offset] of offsets) this.#check(kind, offset);
    const missed: OutputPiece[] = [];
    for (const { kind, bytes, start } of this.#pieces) {
      const skipped = Math.max(0, (offsets.get(kind) ?? Infinity) - start);
      if (skipped < bytes.length) missed.push({ kind, bytes: bytes.subarray(skipped) });
    }
    return missed;
  }

  dropOldest(): void {
    const oldest = this.#pieces.shift();
    if (oldest === undefined) return;
    this.#extentOf(oldest.kind).start = oldest.start + oldest.bytes.length;
    this.#change(-(oldest.bytes.length + pieceBytes));
  }

  /** Discards everything. */
  clear(): void {
    while (this.#pieces.length > 0) this.dropOldest();
  }

  #check(kind: OutputKind, offset: number): void {
    const { start, end } = this.#extentOf(kind);
    if (offset >= start && offset <= end) return;
    throw new ConnectError(
      `${kind} is kept from byte ${start} to ${end}, not from ${offset}`,
      Code.OutOfRange,
    );
  }

  #extentOf(kind: OutputKind): Extent {
    const extent = this.#extents.get(kind);
    if (extent === undefined) throw new TypeError(`the process has no ${kind}`);
    return extent;
  }

  #change(bytes: number): void {
    this.#heldBytes += bytes;
    this.#budget.change(this, bytes);
  }
}
