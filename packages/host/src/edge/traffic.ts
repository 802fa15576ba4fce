/**
 * The clients' requests to one run of a sandbox's VM, from the start of the run to its end.
 *
 *     open ──hold──► held ──released──► open
 *       └──────────────┴──cut──► over
 *
 * While it is held, new requests wait and requests in flight continue. A pause holds it, gives
 * short requests a moment to end, and cuts the rest once the snapshot is safe: until then the pause
 * may fail, and no client should lose a connection for nothing. Streams are not waited for, because
 * they may last for hours. The connections to the guest belong to the run and end with it; none is
 * ever used in another run.
 */
import type { GuestLink } from "@torpor/guest";
import { Deadline, ignoreFailure } from "@torpor/std";
import { GuestPool } from "./guest-pool.ts";

/** Why clients are cut off: the sandbox is paused, or its VM is gone. */
export type Ending = "paused" | "stopped";

/** The kinds of exchanges: short requests, streams, and connections that left HTTP. */
export type ExchangeKind = "request" | "stream" | "upgraded";

/** One request of a client with everything that follows from it. */
export interface Exchange {
  /** A `request` ends by itself, and soon; the other kinds may last. */
  readonly kind: ExchangeKind;
  /**
   * Ends the exchange at once, and reports the reason to the client as well as the protocol can.
   * Never waits.
   */
  cut(ending: Ending): void;
}

/** How many exchanges of each kind were cut. */
export type CutCounts = Readonly<Record<ExchangeKind, number>>;

/** All exchanges with one run. Disposing cuts them as `stopped`. */
export class Traffic implements Disposable {
  readonly pool: GuestPool;
  readonly #exchanges = new Set<Exchange>();
  #held: PromiseWithResolvers<void> | undefined;
  #onChange: (() => void) | undefined;
  #over = false;

  constructor(link: Pick<GuestLink, "connect">) {
    this.pool = new GuestPool(link);
  }

  get phase(): "open" | "held" | "over" {
    if (this.#over) return "over";
    return this.#held === undefined ? "open" : "held";
  }

  /** Number of exchanges in flight. */
  get count(): number {
    return this.#exchanges.size;
  }

  /** Settles when it is no longer held: open again, or over. */
  async whenReleased(): Promise<void> {
    await this.#held?.promise;
  }

  /** Adds an exchange. Dispose the result when the exchange is over. */
  begin(exchange: Exchange): Disposable {
    this.#exchanges.add(exchange);
    return {
      [Symbol.dispose]: () => {
        this.#exchanges.delete(exchange);
        this.#onChange?.();
      },
    };
  }

  /** An exchange reports that its kind has changed: it may last. */
  noteChange(): void {
    this.#onChange?.();
  }

  /** Makes new requests wait until `release`, or until the result is disposed. */
  hold(): Disposable {
    this.#held ??= Promise.withResolvers<void>();
    return { [Symbol.dispose]: () => this.release() };
  }

  /** Lets waiting requests in. Safe to repeat. */
  release(): void {
    this.#held?.resolve();
    this.#held = undefined;
  }

  /** Waits until no short request is in flight, at most `budgetMs`. */
  async drain(budgetMs: number): Promise<void> {
    const deadline = Deadline.after(budgetMs, "requests in flight");
    while (this.#hasShort() && !deadline.expired) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#onChange = resolve;
      await ignoreFailure("what is left then is cut later", deadline.race(promise));
    }
    this.#onChange = undefined;
  }

  /** Closes the connections to the guest that carry nothing now. */
  closeIdle(): void {
    this.pool.closeIdle();
  }

  /** Cuts all exchanges and closes all connections, for good. Safe to repeat. */
  cut(ending: Ending): CutCounts {
    const counts: Record<ExchangeKind, number> = { request: 0, stream: 0, upgraded: 0 };
    this.#over = true;
    for (const exchange of [...this.#exchanges]) {
      counts[exchange.kind] += 1;
      exchange.cut(ending);
    }
    this.pool[Symbol.dispose]();
    this.release();
    return counts;
  }

  [Symbol.dispose](): void {
    this.cut("stopped");
  }

  #hasShort(): boolean {
    for (const { kind } of this.#exchanges) if (kind === "request") return true;
    return false;
  }
}
