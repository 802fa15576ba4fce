/**
 * Buffers of one chunk, in a pool: a fresh buffer costs a page fault for each 4 KiB, which takes
 * longer than filling it, and one more object for the garbage collector to count.
 */
export const chunkBytes = 1 << 20;

/** LIMIT: buffers held while they are unused. */
const idleMax = 16;
const idle: Buffer<ArrayBuffer>[] = [];

/** A buffer of `chunkBytes` from the pool; disposing returns it. */
export interface ChunkBuffer extends Disposable {
  /** Holds whatever it was used for last. */
  readonly bytes: Buffer<ArrayBuffer>;
}

/**
 * Takes a buffer. Dispose it when nothing reads or writes it any more; disposing it again does
 * nothing.
 */
export function takeChunkBuffer(): ChunkBuffer {
  const bytes = idle.pop() ?? Buffer.allocUnsafeSlow(chunkBytes);
  let isTaken = true;
  return {
    bytes,
    [Symbol.dispose]: () => {
      // SAFETY: a buffer returned twice would be handed to two users.
      if (isTaken && idle.length < idleMax) idle.push(bytes);
      isTaken = false;
    },
  };
}
