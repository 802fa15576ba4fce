/**
 * Ctrl-C and its relatives, as one signal that verbs can clean up after.
 *
 * The first one aborts `signal`; the verb then stops what it does and undoes what it made. A second
 * one ends the process at once. While no verb listens, signals do what they always do.
 *
 * A terminal sends SIGINT to the whole process group, and npm forwards the one it got, so a single
 * Ctrl-C may arrive here twice: repeats within `echoMs` count as the same press.
 */
import { constants } from "node:os";
import { TorporError } from "@torpor/std";
import type { Output } from "./output.ts";

const echoMs = 500;
const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
type CaughtSignal = (typeof signals)[number] | "SIGPIPE";

/** What the outside world looks like here. */
export interface SignalSource {
  on(name: NodeJS.Signals, listener: () => void): unknown;
  off(name: NodeJS.Signals, listener: () => void): unknown;
}

export interface InterruptOptions {
  readonly source?: SignalSource;
  readonly monoMs?: () => number;
  /** Ends the process; called for the second press. */
  readonly exit?: (code: number) => void;
  /** Said before a forced end: what is left behind. */
  readonly onForced?: () => void;
}

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
    for (const name of signals) {
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

  /** The reader of our output is gone: the same as if it had interrupted us. */
  readerGone(): void {
    if (!this.happened) this.#abort("SIGPIPE");
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
    this.#options.onForced?.();
    (this.#options.exit ?? ((code) => process.exit(code)))(128 + constants.signals[name]);
  }

  #abort(name: CaughtSignal): void {
    this.#exitCode = 128 + constants.signals[name];
    this.#controller.abort();
  }
}

/**
 * Does work that a person, or a reader that goes away, may interrupt. It is to return soon after
 * `interrupt.signal` aborts, with everything undone, or throw `canceled`.
 * @param onForced Says what a second press leaves behind.
 * @returns the exit code: of the work, or of the signal
 */
export async function interruptible(
  output: Output,
  work: (interrupt: Interrupt) => Promise<number>,
  onForced?: () => void,
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
