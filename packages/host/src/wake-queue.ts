/**
 * Slots for waking, which keeps processors busy: a limited number of wakes run at once, and the
 * others wait, first come, first served.
 *
 * Without slots all wakes would start, share the processors, and finish at the same late moment,
 * when the clients that wait for them may have given up. A wake that takes long is waiting for
 * something, such as a guest that does not answer, and not computing: it gives up its slot, so that
 * it cannot hold up the others. A wake that has waited so long that it would finish too late is
 * refused.
 */
import { TorporError } from "@torpor/std";

/** Limits of the queue. */
export interface WakeQueueLimits {
  /** How many wakes have a slot at once. */
  readonly atOnce: number;
  /** A wake that runs for longer gives up its slot. */
  readonly turnMsMax: number;
  /** A wake that waits for longer is refused. */
  readonly waitMsMax: number;
}

/** Slots for wakes, in the order in which they were requested. */
export class WakeQueue {
  readonly #limits: WakeQueueLimits;
  readonly #waiting: (() => void)[] = [];
  #free: number;

  constructor(limits: WakeQueueLimits) {
    this.#limits = limits;
    this.#free = limits.atOnce;
  }

  /**
   * Waits for a slot; disposing the result frees it.
   * @throws host.busy when no slot came free in time
   */
  async take(): Promise<Disposable> {
    if (this.#free > 0) this.#free -= 1;
    else await this.#wait();
    return this.#begin();
  }

  /** Settles with a slot that another wake has freed. */
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
