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
  #meanwhile: (() => boolean) | undefined;

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

  /** Done a piece at a time, in turns that find nothing to read, until it says that nothing is left. */
  meanwhile(work: () => boolean): void {
    this.#meanwhile = work;
  }

  /** @param timeoutMs 0 to look only, which is all it does while there is something to do meanwhile. */
  turn(timeoutMs: number): void {
    const ready = pollReadable(this.#fds, this.#meanwhile === undefined ? timeoutMs : 0);
    for (const fd of ready) this.#ready.get(fd)?.();
    if (ready.length === 0 && this.#meanwhile?.() === false) this.#meanwhile = undefined;
  }
}
