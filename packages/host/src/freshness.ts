/**
 * Checks that no two guests draw the same random numbers. Each guest answers its `init` with a hash
 * of fresh random bytes; a hash that was seen before means that two guests share a generator.
 */
import { TorporError } from "@torpor/std";

/** LIMIT: hashes that are remembered; siblings wake within far fewer. */
const hashesMax = 10_000;

/** Remembers the hashes of the guests that woke last, in this daemon. */
export class Freshness {
  readonly #seen = new Set<string>();

  /** Remembers the hash. @throws guest.refused when another guest has answered the same */
  check(randomHash: string): void {
    if (this.#seen.has(randomHash)) {
      throw new TorporError("guest.refused", "the guest draws the random numbers of another one", {
        advice: "Rebuild the template with `torpor up`: its agent does not renew its generators.",
      });
    }
    this.#seen.add(randomHash);
    const [oldest] = this.#seen;
    if (this.#seen.size > hashesMax && oldest !== undefined) this.#seen.delete(oldest);
  }
}
