/**
 * One absolute instant after which a piece of work is over, made once at the edge and passed down.
 *
 * Children can only shorten it (`sub`). It runs on the monotonic clock, so that a step of the wall
 * clock changes nothing. `signal` aborts with a `TorporError` as its reason.
 */
import { performance } from "node:perf_hooks";
import { setTimeout as sleepFor } from "node:timers/promises";
import { TorporError } from "./errors.ts";

/**
 * Multiplies every budget, for a machine that is slower than any that users have: an emulated one,
 * for instance. TORPOR_BUDGET_FACTOR, from 1 to 100.
 */
export const budgetFactor = readBudgetFactor(process.env["TORPOR_BUDGET_FACTOR"]);

/** Parses TORPOR_BUDGET_FACTOR; 1 when it is not set. @throws argument.invalid */
export function readBudgetFactor(text: string | undefined): number {
  const factor = Number(text ?? "1");
  if (factor >= 1 && factor <= 100) return factor;
  throw new TorporError("argument.invalid", `TORPOR_BUDGET_FACTOR is from 1 to 100, not "${text}"`);
}

/** The instant on the monotonic clock by which a piece of work must be over. */
export class Deadline {
  #atMonoMs: number;
  readonly #what: string;
  #signal: AbortSignal | undefined;

  private constructor(atMonoMs: number, what: string) {
    this.#atMonoMs = atMonoMs;
    this.#what = what;
  }

  /** `what` names the work in the error text: "pause", "guest health check", … */
  static after(budgetMs: number, what: string): Deadline {
    return new Deadline(performance.now() + budgetMs * budgetFactor, what);
  }

  /** A part of this work with a budget of its own; never later than the whole. */
  sub(budgetMs: number, what: string): Deadline {
    const ownMonoMs = performance.now() + budgetMs * budgetFactor;
    return new Deadline(Math.min(this.#atMonoMs, ownMonoMs), what);
  }

  remainingMs(): number {
    return Math.max(0, this.#atMonoMs - performance.now());
  }

  get expired(): boolean {
    return this.remainingMs() === 0;
  }

  /** Aborts when the instant passes. The timer does not keep the process alive. */
  get signal(): AbortSignal {
    if (this.#signal === undefined) {
      const controller = new AbortController();
      setTimeout(() => controller.abort(this.#pass()), Math.ceil(this.remainingMs())).unref();
      this.#signal = controller.signal;
    }
    return this.#signal;
  }

  error(cause?: unknown): TorporError {
    return new TorporError("deadline.exceeded", `${this.#what} took too long`, { cause });
  }

  /**
   * Timers fire up to a millisecond early; once a caller has seen the abort, `expired` must hold.
   */
  #pass(): TorporError {
    this.#atMonoMs = Math.min(this.#atMonoMs, performance.now());
    return this.error();
  }

  /** @throws deadline.exceeded when the instant has passed. */
  check(): void {
    if (this.expired) throw this.error();
  }

  /** Waits for `work`, but not past the instant. The work itself is not stopped. */
  async race<T>(work: Promise<T>): Promise<T> {
    const { promise, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => reject(this.#pass()), Math.ceil(this.remainingMs()));
    try {
      return await Promise.race([work, promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Sleeps, but never past the instant. */
  async sleep(ms: number): Promise<void> {
    await sleepFor(Math.min(ms, this.remainingMs()));
  }
}
