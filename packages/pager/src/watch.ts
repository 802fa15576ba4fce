/**
 * The one place where the pager stands still: until something can be read, or a time is over.
 *
 * Everything in the pager happens in one thread, between two turns of this watch, and nothing else
 * waits. So no page is installed while a range is being given back, and there are no locks.
 */
import { pollReadable } from "@torpor/native";

export class Watch {
  readonly #ready = new Map<number, () => void>();
  #fds: readonly number[] = [];

  /** From here on `ready` is called in every turn that finds something to read. Close it first. */
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

  /** @param timeoutMs 0 to look only. */
  turn(timeoutMs: number): void {
    for (const fd of pollReadable(this.#fds, timeoutMs)) this.#ready.get(fd)?.();
  }
}
