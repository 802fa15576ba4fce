/**
 * The only place where the pager blocks: until a descriptor is readable, or a time is over.
 *
 * Everything in the pager runs in one thread, between two turns of this watch, and nothing else
 * waits. So no page is installed while a range is being given back, and there are no locks.
 */
import { pollReadable } from "@torpor/native";

/** Waits for descriptors and calls their handlers. */
export class Watch {
  readonly #ready = new Map<number, () => void>();
  #fds: readonly number[] = [];
  #meanwhile: (() => boolean) | undefined;

  /**
   * Calls `ready` in every turn in which `fd` is readable. Dispose of the result before closing
   * `fd`.
   */
  add(fd: number, ready: () => void): Disposable {
    this.#ready.set(fd, ready);
    this.#fds = [...this.#ready.keys()];
    return {
      [Symbol.dispose]: () => {
        this.#ready.delete(fd);
        this.#fds = [...this.#ready.keys()];
      },
    };
  }

  /**
   * Does this work piece by piece, in turns in which nothing is readable, until `work` returns
   * false.
   */
  meanwhile(work: () => boolean): void {
    this.#meanwhile = work;
  }

  /**
   * Waits once and calls the handlers of the readable descriptors.
   * @param timeoutMs 0 to check without waiting, as it does anyway while there is `meanwhile` work;
   * negative to wait without limit.
   */
  turn(timeoutMs: number): void {
    const ready = pollReadable(this.#fds, this.#meanwhile === undefined ? timeoutMs : 0);
    for (const fd of ready) this.#ready.get(fd)?.();
    if (ready.length === 0 && this.#meanwhile?.() === false) this.#meanwhile = undefined;
  }
}
