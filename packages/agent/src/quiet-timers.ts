/**
 * Every timer of the agent: deadlines of commands, keepalives, the time an exit status is kept.
 *
 * INVARIANT: while suspended no timer fires. The agent is suspended from the end of `prepare` until
 * the host has made the guest right again, so that a restored agent does nothing of its own accord
 * before that: no write to a connection that only one of two clones may use, no kill at a time
 * measured by a clock that is still wrong. A timer continues with the time it had left; a pause
 * costs it nothing.
 */
import { performance } from "node:perf_hooks";

/** LIMIT: `setTimeout` fires at once for a longer delay; such delays are waited in parts. */
const partMsMax = 2 ** 31 - 1;

/** One timer that was set. */
export interface QuietTimer {
  /** Stops the timer. Safe to repeat, and after it fired. */
  cancel(): void;
  /** Starts the full delay again, also after it fired. */
  restart(): void;
}

/** Sets timers, and suspends all of them together. */
export class QuietTimers {
  /** SNAPSHOT: what is left of each delay crosses a snapshot; `resume` continues from there. */
  readonly #pending = new Set<Timer>();
  #suspended = false;

  /** Calls `fire` once after `delayMs`. A timer does not keep the process alive. */
  after(delayMs: number, fire: () => void): QuietTimer {
    const timer = new Timer(delayMs, () => {
      this.#pending.delete(timer);
      fire();
    });
    const start = (): void => {
      timer.stop();
      timer.remainingMs = delayMs;
      this.#pending.add(timer);
      if (!this.#suspended) timer.run();
    };
    start();
    return {
      cancel: () => {
        timer.stop();
        this.#pending.delete(timer);
      },
      restart: start,
    };
  }

  /** Stops all timers where they are. Safe to repeat. */
  suspend(): void {
    this.#suspended = true;
    for (const timer of this.#pending) timer.stop();
  }

  /** Continues all timers with the time they had left. Safe to repeat. */
  resume(): void {
    if (!this.#suspended) return;
    this.#suspended = false;
    for (const timer of this.#pending) timer.run();
  }
}

class Timer {
  remainingMs: number;
  readonly #fire: () => void;
  #startedMonoMs = 0;
  #handle: NodeJS.Timeout | undefined;

  constructor(remainingMs: number, fire: () => void) {
    this.remainingMs = remainingMs;
    this.#fire = fire;
  }

  run(): void {
    this.#startedMonoMs = performance.now();
    const partMs = Math.min(this.remainingMs, partMsMax);
    this.#handle = setTimeout(() => {
      this.stop();
      if (this.remainingMs > 0) this.run();
      else this.#fire();
    }, Math.ceil(partMs)).unref();
  }

  stop(): void {
    if (this.#handle === undefined) return;
    clearTimeout(this.#handle);
    this.#handle = undefined;
    this.remainingMs = Math.max(0, this.remainingMs - (performance.now() - this.#startedMonoMs));
  }
}
