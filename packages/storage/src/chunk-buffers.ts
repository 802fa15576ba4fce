/**
 * Buffers of one chunk, used again and again: a fresh one costs a page fault for each 4 KiB, which takes
 * longer than filling it, and one more thing for the garbage collector to count.
 */
export const chunkBytes = 1 << 20;

/** LIMIT: of memory that is held while nobody uses it. */
const idleMax = 16;
const idle: Buffer<ArrayBuffer>[] = [];

export interface ChunkBuffer extends Disposable {
  /** Holds whatever it was used for last. */
  readonly bytes: Buffer<ArrayBuffer>;
}

/** Disposed when nobody reads or writes it any more; once more does nothing. */
export function takeChunkBuffer(): ChunkBuffer {
  const bytes = idle.pop() ?? Buffer.allocUnsafeSlow(chunkBytes);
  let isTaken = true;
  return {
    bytes,
    [Symbol.dispose]: () => {
      // SAFETY: given back twice it would be given to two.
      if (isTaken && idle.length < idleMax) idle.push(bytes);
      isTaken = false;
    },
  };
}
