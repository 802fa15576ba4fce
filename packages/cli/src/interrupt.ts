/**
 * Turns Ctrl-C and its relatives into one signal that verbs can clean up after: Ctrl-\, a terminal
 * that was closed, `kill`, and a reader of our output that went away.
 *
 * The first press aborts `signal`; the verb then stops its work and undoes what it made. A second
 * press ends the process at once. While no verb listens, signals have their usual effect.
 *
 * A terminal sends SIGINT to the whole process group, and npm forwards the one it received, so a
 * single Ctrl-C may arrive here twice: repeats within `echoMs` count as the same press.
 */
import { constants } from "node:os";
import { Deadline, TorporError, ignoreFailure } from "@torpor/std";
import type { Output } from "./output.ts";

const echoMs = 500;
/** LIMIT: what a verb may still do after a second press. */
const forcedMs = 2_000;
/** The signals that count as an interrupt. */
export const caughtSignals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const;
type CaughtSignal = (typeof caughtSignals)[number] | "SIGPIPE";

/** Where signals come from; tests replace it. */
export interface SignalSource {
  on(name: NodeJS.Signals, listener: () => void): unknown;
  off(name: NodeJS.Signals, listener: () => void): unknown;
}

/** Runs before a forced end. */
export type OnForced = () => void | Promise<void>;

/** The surroundings of an interrupt; tests replace most of them. */
export interface InterruptOptions {
  readonly source?: SignalSource;
  readonly monoMs?: () => number;
  /** Ends the process; called for the second press. */
  readonly exit?: (code: number) => void;
  /** Runs before a forced end: says what is left behind, or removes it in a last request. */
  readonly onForced?: OnForced;
}

/** Listens for an interrupt until disposed. */
export class Interrupt implements Disposable {
  readonly #controller = new AbortController();
  readonly #listeners = new DisposableStack();
  readonly #options: InterruptOptions;
  readonly #monoMs: () => number;
  #firstMonoMs: number | undefined;
  #exitCode = 0;

  constructor(options: InterruptOptions = {}) {
    this.#options = options;
    this.#monoMs = options.monoMs ?? (() => performance.now());
    const source: SignalSource = options.source ?? process;
    for (const name of caughtSignals) {
      const listener = (): void => this.#receive(name);
      source.on(name, listener);
      this.#listeners.defer(() => source.off(name, listener));
    }
  }

  /** Aborts at the first press. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get happened(): boolean {
    return this.#controller.signal.aborted;
  }

  /** 128 plus the number of the signal, as shells report it; 0 when none came. */
  get exitCode(): number {
    return this.#exitCode;
  }

  /** Reports that the reader of our output is gone, which counts as an interrupt. */
  readerGone(): void {
    if (!this.happened) this.#abort("SIGPIPE");
  }

  /**
   * Reports that our terminal is gone: the same as its signal, which not every process receives.
   */
  terminalGone(): void {
    if (!this.happened) this.#abort("SIGHUP");
  }

  /** Throws if an interrupt has happened. @throws canceled */
  throwIfHappened(): void {
    if (this.happened) throw new TorporError("canceled", "interrupted");
  }

  /**
   * Returns the result of `work`, unless the interrupt comes first; `work` then continues
   * unobserved. @throws canceled
   */
  async race<T>(work: Promise<T>): Promise<T> {
    const interrupted = Promise.withResolvers<never>();
    const reject = (): void => interrupted.reject(new TorporError("canceled", "interrupted"));
    if (this.happened) reject();
    this.signal.addEventListener("abort", reject);
    try {
      return await Promise.race([interrupted.promise, work]);
    } finally {
      this.signal.removeEventListener("abort", reject);
    }
  }

  [Symbol.dispose](): void {
    this.#listeners.dispose();
  }

  #receive(name: CaughtSignal): void {
    const nowMonoMs = this.#monoMs();
    if (this.#firstMonoMs === undefined) {
      this.#firstMonoMs = nowMonoMs;
      if (!this.happened) this.#abort(name);
      return;
    }
    if (nowMonoMs - this.#firstMonoMs < echoMs) return;
    void this.#force(128 + constants.signals[name]);
  }

  async #force(exitCode: number): Promise<void> {
    const { onForced, exit = (code) => process.exit(code) } = this.#options;
    const last = Deadline.after(forcedMs, "cleaning up");
    await ignoreFailure("the process ends anyway", last.race(Promise.resolve(onForced?.())));
    exit(exitCode);
  }

  #abort(name: CaughtSignal): void {
    this.#exitCode = 128 + constants.signals[name];
    this.#controller.abort();
  }
}

/**
 * Runs work that a person, or a reader that goes away, may interrupt. The work must return soon
 * after `interrupt.signal` aborts, with everything undone, or throw `canceled`.
 * @param onForced Says what a second press leaves behind, or removes it.
 * @returns the exit code of the work, or of the signal
 */
export async function interruptible(
  output: Output,
  work: (interrupt: Interrupt) => Promise<number>,
  onForced?: OnForced,
): Promise<number> {
  using undo = new DisposableStack();
  const interrupt = undo.use(new Interrupt(onForced === undefined ? {} : { onForced }));
  undo.use(output.watchReader(() => interrupt.readerGone()));
  try {
    return await work(interrupt);
  } catch (cause) {
    if (interrupt.happened && TorporError.is(cause) && cause.code === "canceled") {
      return interrupt.exitCode;
    }
    throw cause;
  }
}
