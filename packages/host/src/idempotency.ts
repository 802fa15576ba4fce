/**
 * A request with an `Idempotency-Key` takes effect once, however often it is sent.
 *
 * The daemon stores the ids of what it will make before it makes any of it, and the result once it
 * is known: ids and errors, and nothing secret, because a response is put together from what
 * exists. A record stays if anything was made; a request that made nothing may be retried with its
 * key.
 *
 *     no record      not requested, or nothing was made
 *     ids            in progress in this daemon; a daemon that finds it when it starts settles it by
 *                    the sandboxes and snapshots that exist, once these are settled
 *     ids and made   answered, and a repeat gets the same answer
 *
 * Requests in progress are held in memory, and a repeat joins them.
 */
import { type ErrorBody, type Logger, type StepTiming, TorporError, assert } from "@torpor/std";
import type {
  IdempotencyRecord,
  IdempotencyRecords,
  KeyedRequest,
  Made,
} from "./records/idempotency-records.ts";
import type { Decided } from "./sandboxes.ts";

/** LIMITS of how long and how many records are kept. */
const keptMs = 24 * 60 * 60 * 1000;
const keptCountMax = 100_000;
/** Pruning takes some 10 ms when there is much to do, so only one in this many requests does it. */
const pruneEvery = 1_000;

/** The results of a request. A repeat that is answered from a record has no timings. */
export interface Product {
  /** The result for each requested thing, in order. */
  readonly made: readonly Made[];
  readonly timings: readonly StepTiming[];
}

/** Dependencies of `Idempotency`. */
export interface IdempotencyOptions {
  readonly records: IdempotencyRecords;
  /** Whether a sandbox or a snapshot has this id, neither half made nor about to be removed. */
  readonly exists: (id: string) => boolean;
  readonly log: Logger;
}

interface UnderWay {
  readonly request: KeyedRequest;
  readonly product: Promise<Product>;
}

/** Runs each keyed request once. */
export class Idempotency {
  readonly #options: IdempotencyOptions;
  readonly #underWay = new Map<string, UnderWay>();
  #requestCount = 0;

  private constructor(options: IdempotencyOptions) {
    this.#options = options;
  }

  /**
   * Settles what an earlier daemon had in progress; call it before anything is created or removed.
   */
  static async open(options: IdempotencyOptions): Promise<Idempotency> {
    const idempotency = new Idempotency(options);
    for (const record of await options.records.unsettled()) await idempotency.#settle(record);
    return idempotency;
  }

  /**
   * Runs the request, joins an earlier one that is still in progress, or answers from the record of
   * one.
   * @param request Undefined for a request without a key, which runs each time.
   * @param make Announces the ids of what it will make, then makes it.
   * @throws request.keyReused, and whatever `make` throws, to every caller that waits for it
   */
  async once(
    request: KeyedRequest | undefined,
    make: (decided?: Decided) => Promise<Product>,
  ): Promise<Product> {
    if (request === undefined) return await make();
    const name = JSON.stringify([request.caller, request.key]);
    const earlier = this.#underWay.get(name);
    if (earlier !== undefined) {
      refuseOther(earlier.request, request);
      return await earlier.product;
    }
    // ORDER: nothing is awaited between the look-up and `set`, so the second of two requests joins.
    const product = this.#remember(request, make);
    this.#underWay.set(name, { request, product });
    try {
      return await product;
    } finally {
      this.#underWay.delete(name);
    }
  }

  async #remember(
    request: KeyedRequest,
    make: (decided: Decided) => Promise<Product>,
  ): Promise<Product> {
    const { records } = this.#options;
    if (this.#requestCount++ % pruneEvery === 0) {
      await records.prune(Date.now() - keptMs, keptCountMax);
    }
    const known = await records.find(request, Date.now() - keptMs);
    if (known !== undefined) {
      refuseOther(known, request);
      const made = known.made ?? (await this.#settle(known));
      if (made !== undefined) return { made, timings: [] };
    }
    return await this.#make(request, make);
  }

  async #make(
    request: KeyedRequest,
    make: (decided: Decided) => Promise<Product>,
  ): Promise<Product> {
    const { records, log } = this.#options;
    let record: IdempotencyRecord | undefined;
    const conclude = async (made: readonly Made[]): Promise<void> => {
      try {
        if (record !== undefined) await this.#conclude(record, made);
      } catch (cause) {
        log.warn("what a request made was not noted; its repeat looks at what is there", { cause });
      }
    };
    try {
      const product = await make(async (ids) => {
        record = { ...request, ids, made: null, createdAtMs: Date.now() };
        await records.save(record);
      });
      await conclude(product.made);
      return product;
    } catch (cause) {
      await conclude([]);
      throw cause;
    }
  }

  /** Settles a record by what exists. @returns undefined if nothing was made */
  async #settle(record: IdempotencyRecord): Promise<readonly Made[] | undefined> {
    const { exists } = this.#options;
    const made = record.ids.map((id) => (exists(id) ? id : interrupted()));
    return (await this.#conclude(record, made)) ? made : undefined;
  }

  /** @returns whether anything was made, and is therefore remembered */
  async #conclude(record: IdempotencyRecord, made: readonly Made[]): Promise<boolean> {
    const { records } = this.#options;
    const any = made.some((one) => typeof one === "string");
    if (any) await records.save({ ...record, made });
    else await records.remove(record);
    return any;
  }
}

/** The id in the result of a request for one thing. Asserts that there is exactly one. */
export function idOf(made: readonly Made[]): string {
  const [id] = made;
  assert(typeof id === "string" && made.length === 1, "one thing was asked for, and made");
  return id;
}

/** @throws request.keyReused */
function refuseOther(earlier: KeyedRequest, { requestSha256 }: KeyedRequest): void {
  if (earlier.requestSha256 === requestSha256) return;
  throw new TorporError(
    "request.keyReused",
    "this Idempotency-Key was sent before, with another request",
  );
}

/** The error for a child that was not made before the daemon ended. */
function interrupted(): ErrorBody {
  return new TorporError("canceled", "the daemon ended before this one was made", {
    effect: "none",
    advice: "Fork again, with a new Idempotency-Key, for as many as are missing.",
  }).toBody();
}
