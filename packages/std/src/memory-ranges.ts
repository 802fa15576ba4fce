/** Ranges of a guest's memory, and bytes at a place in it. */

/** Half-open, page-aligned; bytes from the beginning of the memory image. */
export interface MemoryRange {
  readonly startBytes: number;
  readonly endBytes: number;
}

/** Bytes of guest memory, and where they begin in the memory image. */
export interface MemoryPiece {
  readonly offsetBytes: number;
  readonly bytes: Uint8Array;
}

/** Merges ranges that overlap or touch. @returns ascending and apart from each other */
export function joinRanges(ranges: readonly MemoryRange[]): readonly MemoryRange[] {
  const joined: { startBytes: number; endBytes: number }[] = [];
  for (const range of ranges.toSorted((one, other) => one.startBytes - other.startBytes)) {
    const last = joined.at(-1);
    if (last !== undefined && range.startBytes <= last.endBytes) {
      last.endBytes = Math.max(last.endBytes, range.endBytes);
    } else joined.push({ ...range });
  }
  return joined;
}

/** The sum of the ranges' lengths; overlaps count twice. */
export function totalBytes(ranges: readonly MemoryRange[]): number {
  return ranges.reduce((sum, { startBytes, endBytes }) => sum + endBytes - startBytes, 0);
}
