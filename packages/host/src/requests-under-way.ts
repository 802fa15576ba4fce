/** The API requests that are in progress, by route, without what the clients sent. */
import type { JsonObject } from "@torpor/std";

/** LIMIT: requests that are listed; the others are only counted. */
const listedMax = 50;

interface UnderWay {
  readonly requestId: string;
  readonly method: string;
  readonly route: string;
  readonly startedMonoMs: number;
}

/** Tracks the requests in progress, for reports about the daemon's work. */
export class RequestsUnderWay {
  readonly #all = new Set<UnderWay>();

  /** Adds a request; disposing the result removes it. */
  begin(request: UnderWay): Disposable {
    this.#all.add(request);
    return { [Symbol.dispose]: () => void this.#all.delete(request) };
  }

  /** How many there are, and the oldest of them. */
  describe(): JsonObject {
    const listed = [...this.#all].slice(0, listedMax).map(({ startedMonoMs, ...request }) => ({
      ...request,
      tookMs: Math.round(performance.now() - startedMonoMs),
    }));
    return { count: this.#all.size, listed };
  }
}
