/** When a sandbox was last used. A request to its guest counts as use for as long as it lasts. */
export class Activity {
  #users = 0;
  #lastUsedAtMs = Date.now();

  /** Wall clock of the last use; now, while a use lasts. */
  get lastUsedAtMs(): number {
    return this.#users > 0 ? Date.now() : this.#lastUsedAtMs;
  }

  /** Counts as a use at this moment. */
  touch(): void {
    this.#lastUsedAtMs = Date.now();
  }

  /** Begins a use, which lasts until the result is disposed. */
  begin(): Disposable {
    this.#users += 1;
    let ended = false;
    return {
      [Symbol.dispose]: () => {
        if (ended) return;
        ended = true;
        this.#users -= 1;
        this.touch();
      },
    };
  }
}
