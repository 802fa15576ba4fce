/** What clients of the API wait for right now, by route and not by what they sent. */
import type { JsonObject } from "@torpor/std";

/** LIMIT: of those that are listed; the others are counted. */
const listedMax = 50;

interface UnderWay {
  readonly requestId: string;
  readonly method: string;
  readonly route: string;
  readonly startedMonoMs: number;
}

export class RequestsUnderWay {
  readonly #all = new Set<UnderWay>();

  /** Disposing the result says that it is over. */
  begin(request: UnderWay): Disposable {
    this.#all.add(request);
    return { [Symbol.dispose]: () => void this.#all.delete(request) };
  }

  describe(): JsonObject {
    const listed = [...this.#all].slice(0, listedMax).map(({ startedMonoMs, ...request }) => ({
      ...request,
      tookMs: Math.round(performance.now() - startedMonoMs),
    }));
    return { count: this.#all.size, listed };
  }
}
