/** When somebody last used a sandbox: a request to its guest, for as long as it lasts. */
export class Activity {
  #users = 0;
  #lastUsedAtMs = Date.now();

  /** Now, while somebody is using it. */
  get lastUsedAtMs(): number {
    return this.#users > 0 ? Date.now() : this.#lastUsedAtMs;
  }

  touch(): void {
    this.#lastUsedAtMs = Date.now();
  }

  /** A use that lasts until it is disposed. */
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
