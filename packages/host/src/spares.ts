/**
 * Spare sandboxes: restored, warmed up and held before anyone asks for one.
 *
 * A spare is a sandbox like any other whose `create` has almost nothing left to do. It belongs to
 * no one: it is not listed and ends with the daemon. If the daemon is killed, the next one removes
 * the spare, because its record still says "creating". Spares are made one at a time, a moment
 * after the last request, so that making them does not slow down what they are made for.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ignoreFailure } from "@torpor/std";
import type { Sandbox } from "./sandbox/sandbox.ts";
import type { Source } from "./source.ts";

/** The sandbox that was just handed out has this long for its first command without competition. */
const defaultQuietMs = 1_000;

/** Keeps as many spares ready as each source wants. */
export class Spares {
  readonly #make: (source: Source) => Sandbox;
  readonly #quietMs: number;
  readonly #ready = new Map<string, Sandbox[]>();
  /** How many spares each source should have, as last requested. */
  readonly #wanted = new Map<string, number>();
  /** Settles when the spare that is being made is ready, or has failed. */
  readonly #making = new Map<string, Promise<void>>();
  readonly #ending = new AbortController();
  #work: Promise<void> = Promise.resolve();

  /** @param quietMs Only tests pass one. */
  constructor(make: (source: Source) => Sandbox, quietMs = defaultQuietMs) {
    this.#make = make;
    this.#quietMs = quietMs;
  }

  /** How many spares are ready, of all sources. */
  get readyCount(): number {
    return [...this.#ready.values()].flat().length;
  }

  /** Takes a spare of this source, or returns undefined; in either case another one is made. */
  take(source: Source): Sandbox | undefined {
    const spare = this.#of(source.id).shift();
    this.refill(source);
    return spare;
  }

  /** In the background, makes the spares that are missing and removes those that are too many. */
  refill(source: Source): void {
    this.#wanted.set(source.id, source.spareCount);
    this.#work = this.#work.then(() =>
      ignoreFailure("without a spare a sandbox takes its whole time", this.#fill(source)),
    );
  }

  /** Removes the spares of a source that no longer exists, including the one that is being made. */
  async drop(sourceId: string): Promise<void> {
    this.#wanted.delete(sourceId);
    await this.#making.get(sourceId);
    const spares = this.#of(sourceId).splice(0);
    await Promise.allSettled(spares.map((spare) => spare.remove()));
  }

  /** Removes all spares and makes no more. */
  async end(): Promise<void> {
    this.#ending.abort();
    await this.#work;
    // The next daemon removes a spare that cannot be removed here.
    await Promise.allSettled([...this.#ready.keys()].map((id) => this.drop(id)));
  }

  async #fill(source: Source): Promise<void> {
    const ready = this.#of(source.id);
    const tooMany = ready.splice(this.#wantedOf(source));
    await Promise.allSettled(tooMany.map((spare) => spare.remove()));
    while (ready.length < this.#wantedOf(source)) {
      await sleep(this.#quietMs, undefined, { signal: this.#ending.signal });
      if (ready.length >= this.#wantedOf(source)) return; // dropped, or fewer are wanted
      const making = this.#makeOne(source);
      this.#making.set(source.id, ignoreFailure("whoever makes it is told", making));
      try {
        await making;
      } finally {
        this.#making.delete(source.id);
      }
    }
  }

  async #makeOne(source: Source): Promise<void> {
    const spare = this.#make(source);
    await spare.prepareSpare();
    this.#of(source.id).push(spare);
  }

  #wantedOf({ id }: Source): number {
    return this.#wanted.get(id) ?? 0;
  }

  #of(sourceId: string): Sandbox[] {
    const ready = this.#ready.get(sourceId) ?? [];
    this.#ready.set(sourceId, ready);
    return ready;
  }
}
