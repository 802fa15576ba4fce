/**
 * How often one key may ask: a bucket of tokens for each, that fills evenly. What is refused is told
 * when the next token is there, and a blind repeat after that succeeds unless others took it.
 */
import { TorporError } from "@torpor/std";

const rateWindowMs = 30_000;

interface Bucket {
  tokens: number;
  filledAtMs: number;
}

export interface RateVerdict {
  readonly headers: Readonly<Record<string, string>>;
  /** Undefined when the request may go on. */
  readonly refusal: TorporError | undefined;
}

export class RateLimits {
  readonly #max: number;
  readonly #nowMs: () => number;
  readonly #buckets = new Map<string, Bucket>();

  /**
   * @param max At once, and in each window; 0: any number.
   * @param nowMs Of a clock that is never set.
   */
  constructor(max: number, nowMs: () => number = () => performance.now()) {
    this.#max = max;
    this.#nowMs = nowMs;
  }

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
