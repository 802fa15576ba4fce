/**
 * A generation smaller than the tracker's own was handed in: the call belongs to an earlier restore.
 *
 * Nothing was changed. Recognise it by `code`, which holds across two copies of this package.
 */
export class StaleGenerationError extends RangeError {
  override readonly name = "StaleGenerationError";
  readonly code = "ERR_STALE_GENERATION";
  /** The generation that was handed in. */
  readonly given: number;
  /** The generation of the tracker. */
  readonly current: number;

  constructor(given: number, current: number) {
    super(`Generation ${given} is older than the current generation ${current}`);
    this.given = given;
    this.current = current;
  }
}

/**
 * @throws RangeError when `generation` is not a whole number from 0 up.
 * @throws StaleGenerationError when it is smaller than `current`.
 */
export function checkGeneration(generation: number, current: number): void {
  if (!Number.isSafeInteger(generation) || generation < 0) {
    throw new RangeError(`A generation is a whole number from 0 up, not ${generation}`);
  }
  if (generation < current) throw new StaleGenerationError(generation, current);
}
