/**
 * How often one key may send requests: each key has a bucket of tokens that fills evenly. A refusal
 * says when the next token is there, and a retry after that succeeds unless others took it.
 */
import { TorporError } from "@torpor/std";

const rateWindowMs = 30_000;

interface Bucket {
  tokens: number;
  filledAtMs: number;
}

/** The verdict on one request. */
export interface RateVerdict {
  /** Headers of the answer, whatever the verdict; empty if there is no limit. */
  readonly headers: Readonly<Record<string, string>>;
  /** Undefined when the request is allowed. */
  readonly refusal: TorporError | undefined;
}

/** The buckets of all keys. */
export class RateLimits {
  readonly #max: number;
  readonly #nowMs: () => number;
  readonly #buckets = new Map<string, Bucket>();

  /**
   * @param max Requests at once, and in each window of 30 s; 0: any number.
   * @param nowMs Milliseconds of a clock that is never set.
   */
  constructor(max: number, nowMs: () => number = () => performance.now()) {
    this.#max = max;
    this.#nowMs = nowMs;
  }

  /** Takes a token for one request of a caller. */
  take(caller: string): RateVerdict {
    if (this.#max === 0) return { headers: {}, refusal: undefined };
    const bucket = this.#fill(caller);
    const allowed = bucket.tokens >= 1;
    if (allowed) bucket.tokens -= 1;
    const msPerToken = rateWindowMs / this.#max;
    const headers = {
      "ratelimit-limit": String(this.#max),
      "ratelimit-remaining": String(Math.floor(bucket.tokens)),
      "ratelimit-reset": String(seconds((this.#max - bucket.tokens) * msPerToken)),
    };
    if (allowed) return { headers, refusal: undefined };
    const waitSeconds = Math.max(1, seconds((1 - bucket.tokens) * msPerToken));
    return {
      headers: { ...headers, "retry-after": String(waitSeconds) },
      refusal: new TorporError(
        "rate.limited",
        `more than ${this.#max} requests in ${rateWindowMs / 1000} s with one key`,
      ),
    };
  }

  #fill(caller: string): Bucket {
    const now = this.#nowMs();
    const bucket = this.#buckets.get(caller) ?? { tokens: this.#max, filledAtMs: now };
    this.#buckets.set(caller, bucket);
    const gained = ((now - bucket.filledAtMs) * this.#max) / rateWindowMs;
    bucket.tokens = Math.min(this.#max, bucket.tokens + gained);
    bucket.filledAtMs = now;
    return bucket;
  }
}

function seconds(ms: number): number {
  return Math.ceil(ms / 1000);
}
