/**
 * That a request with an `Idempotency-Key` takes effect once, however often it is sent.
 *
 * The ids of what will be made are stored before any of it is made, and what was made once it is known:
 * ids and errors, and nothing secret, because an answer is put together from what is there. A record
 * stays as long as something was made; a request that made nothing may be tried again with its key.
 *
 *     no record      not asked for, or nothing was made
 *     ids            under way in this daemon; a daemon that finds it at its start settles it by what
 *                    the sandboxes and snapshots are, once these are settled
 *     ids and made   answered, and a repeat is answered the same
 *
 * Requests that are under way are in memory, and a repeat joins them.
 */
import { type ErrorBody, type Logger, type StepTiming, TorporError, assert } from "@torpor/std";
import type {
  IdempotencyRecord,
  IdempotencyRecords,
  KeyedRequest,
  Made,
} from "./records/idempotency-records.ts";
import type { Decided } from "./sandboxes.ts";

/** LIMITS of what is remembered. */
const keptMs = 24 * 60 * 60 * 1000;
const keptCountMax = 100_000;
/** Looking for what is too much takes some 10 ms when there is, so it is done once in so many requests. */
const pruneEvery = 1_000;

/** What a request made; the times of its steps are gone when it is told from a record. */
export interface Product {
  /** Of each thing that was asked for, in order. */
  readonly made: readonly Made[];
  readonly timings: readonly StepTiming[];
}

export interface IdempotencyOptions {
  readonly records: IdempotencyRecords;
  /** Whether there is a sandbox or a snapshot of this id, whole and not about to go. */
  readonly exists: (id: string) => boolean;
  readonly log: Logger;
}

interface UnderWay {
  readonly request: KeyedRequest;
  readonly product: Promise<Product>;
}

export class Idempotency {
  readonly #options: IdempotencyOptions;
  readonly #underWay = new Map<string, UnderWay>();
  #requestCount = 0;

  private constructor(options: IdempotencyOptions) {
    this.#options = options;
  }

  /** Settles what an earlier daemon was about, so before anything is made or removed. */
  static async open(options: IdempotencyOptions): Promise<Idempotency> {
    const idempotency = new Idempotency(options);
    for (const record of await options.records.unsettled()) await idempotency.#settle(record);
    return idempotency;
  }

  /**
   * @param request Undefined for one without a key, which is done as often as it comes.
   * @param make Tells what it will make before it does.
   * @throws request.keyReused, and whatever `make` throws, to all who wait for it
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
    // ORDER: no wait between the look and the entry, so that of two at once one joins the other.
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

  /** By what is there. @returns undefined when nothing was made */
  async #settle(record: IdempotencyRecord): Promise<readonly Made[] | undefined> {
    const { exists } = this.#options;
    const made = record.ids.map((id) => (exists(id) ? id : interrupted()));
    return (await this.#conclude(record, made)) ? made : undefined;
  }

  /** @returns whether anything was made, and so is remembered */
  async #conclude(record: IdempotencyRecord, made: readonly Made[]): Promise<boolean> {
    const { records } = this.#options;
    const any = made.some((one) => typeof one === "string");
    if (any) await records.save({ ...record, made });
    else await records.remove(record);
    return any;
  }
}

/** Of a request that asks for one thing. */
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

/** Of a child that was not made before the daemon ended, unlike its siblings. */
function interrupted(): ErrorBody {
  return new TorporError("canceled", "the daemon ended before this one was made", {
    effect: "none",
    advice: "Fork again, with a new Idempotency-Key, for as many as are missing.",
  }).toBody();
}
