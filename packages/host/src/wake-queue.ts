/**
 * Turns at waking, which keeps processors busy: so many at once, the others wait, first come, first served.
 *
 * Without turns all would start, share the processors, and be done at the same late moment, when those
 * who wait for parts of the work may have given up. A turn that takes long is waiting for something, such
 * as a guest that does not answer, and not computing: then the next one begins beside it, so that nobody
 * can hold the others up. Who has waited so long that the work would come too late is refused.
 */
import { TorporError } from "@torpor/std";

export interface WakeQueueLimits {
  readonly atOnce: number;
  /** From here on a turn holds nobody up. */
  readonly turnMsMax: number;
  /** Who has no turn by now is refused. */
  readonly waitMsMax: number;
}

export class WakeQueue {
  readonly #limits: WakeQueueLimits;
  readonly #waiting: (() => void)[] = [];
  #free: number;

  constructor(limits: WakeQueueLimits) {
    this.#limits = limits;
    this.#free = limits.atOnce;
  }

  /** Waits for a turn, which ends when it is disposed. @throws host.busy when none came in time */
  async take(): Promise<Disposable> {
    if (this.#free > 0) this.#free -= 1;
    else await this.#wait();
    return this.#begin();
  }

  /** Settles with a turn that somebody else has ended. */
  async #wait(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const called = (): void => {
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(() => {
      this.#waiting.splice(this.#waiting.indexOf(called), 1);
      reject(new TorporError("host.busy", "too many sandboxes are starting at the same time"));
    }, this.#limits.waitMsMax).unref();
    this.#waiting.push(called);
    await promise;
  }

  #begin(): Disposable {
    let isOver = false;
    const end = (): void => {
      clearTimeout(timer);
      if (isOver) return;
      isOver = true;
      const next = this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    };
    const timer = setTimeout(end, this.#limits.turnMsMax).unref();
    return { [Symbol.dispose]: end };
  }
}
