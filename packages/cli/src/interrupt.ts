/**
 * Ctrl-C and its relatives, as one signal that verbs can clean up after: Ctrl-\, a terminal that was
 * closed, `kill`, and a reader of our output that went away.
 *
 * The first one aborts `signal`; the verb then stops what it does and undoes what it made. A second
 * one ends the process at once. While no verb listens, signals do what they always do.
 *
 * A terminal sends SIGINT to the whole process group, and npm forwards the one it got, so a single
 * Ctrl-C may arrive here twice: repeats within `echoMs` count as the same press.
 */
import { constants } from "node:os";
import { Deadline, TorporError, ignoreFailure } from "@torpor/std";
import type { Output } from "./output.ts";

const echoMs = 500;
/** LIMIT: of what a verb still does after a second press. */
const forcedMs = 2_000;
export const caughtSignals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"] as const;
type CaughtSignal = (typeof caughtSignals)[number] | "SIGPIPE";

/** What the outside world looks like here. */
export interface SignalSource {
  on(name: NodeJS.Signals, listener: () => void): unknown;
  off(name: NodeJS.Signals, listener: () => void): unknown;
}

export type OnForced = () => void | Promise<void>;

export interface InterruptOptions {
  readonly source?: SignalSource;
  readonly monoMs?: () => number;
  /** Ends the process; called for the second press. */
  readonly exit?: (code: number) => void;
  /** Done before a forced end: says what is left behind, or takes it away in a last request. */
  readonly onForced?: OnForced;
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

  /** The reader of our output is gone: the same as if it had interrupted us. */
  readerGone(): void {
    if (!this.happened) this.#abort("SIGPIPE");
  }

  /** Our terminal is gone: the same as the signal that says so, which not every process gets. */
  terminalGone(): void {
    if (!this.happened) this.#abort("SIGHUP");
  }

  /** @throws canceled */
  throwIfHappened(): void {
    if (this.happened) throw new TorporError("canceled", "interrupted");
  }

  /** What `work` says, unless the interrupt comes first; `work` is then left alone. @throws canceled */
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
 * Does work that a person, or a reader that goes away, may interrupt. It is to return soon after
 * `interrupt.signal` aborts, with everything undone, or throw `canceled`.
 * @param onForced Says what a second press leaves behind, or takes it away.
 * @returns the exit code: of the work, or of the signal
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
