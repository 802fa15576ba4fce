/**
 * Which blocks of Torpor's code have run, by the coverage that V8 keeps of every function.
 *
 * To ask V8 takes milliseconds, so it is asked once for many inputs.
 */
import { Session } from "node:inspector";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const codeUrl = pathToFileURL(join(import.meta.dirname, "../../packages/")).href;

export class Coverage implements Disposable {
  readonly #session = new Session();
  readonly #seen = new Set<string>();

  constructor() {
    this.#session.connect();
    this.#session.post("Profiler.enable");
    this.#session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: true });
  }

  /** Blocks that have run since the last call and never before. */
  takeNew(): ReadonlySet<string> {
    const fresh = this.take().difference(this.#seen);
    for (const block of fresh) this.#seen.add(block);
    return fresh;
  }

  /** Blocks that have run since the last call. */
  take(): ReadonlySet<string> {
    const blocks = new Set<string>();
    // A session within the process answers before `post` returns.
    this.#session.post("Profiler.takePreciseCoverage", (failure, { result }) => {
      if (failure !== null) throw failure;
      for (const { url, scriptId, functions } of result) {
        if (!url.startsWith(codeUrl)) continue;
        for (const { ranges } of functions) {
          for (const { startOffset, endOffset, count } of ranges) {
            if (count > 0) blocks.add(`${scriptId}:${startOffset}:${endOffset}`);
          }
        }
      }
    });
    return blocks;
  }

  [Symbol.dispose](): void {
    this.#session.disconnect();
  }
}
