/**
 * The use of processor, memory and disk by running guests. The daemon samples each agent at an
 * interval and keeps the newest samples in memory. They go with the daemon and with the sandbox; a
 * paused sandbox keeps its samples.
 */
import { type GuestSample } from "@torpor/guest";
import { Deadline, ignoreFailure } from "@torpor/std";
import type { ApiSandbox } from "./api/api-host.ts";

const sampleEveryMs = 10_000;
const sampleBudgetMs = 3_000;
/** LIMIT: an hour of samples, some 50 KiB. */
const samplesMax = 360;
/** A client that asks sooner than this after a sample gets that sample. */
const freshMs = 2_000;

/** Samples running sandboxes, until disposed. */
export class GuestMetrics implements Disposable {
  readonly #samples = new WeakMap<ApiSandbox, readonly GuestSample[]>();
  readonly #asking = new WeakMap<ApiSandbox, Promise<void>>();
  readonly #timer: NodeJS.Timeout;

  /** Starts sampling at an interval. */
  constructor(all: () => readonly ApiSandbox[]) {
    this.#timer = setInterval(() => {
      for (const sandbox of all()) {
        if (sandbox.run !== undefined) void ignoreFailure("asked again", this.#sample(sandbox));
      }
    }, sampleEveryMs);
    this.#timer.unref();
  }

  /** The samples of a sandbox, oldest first, with a fresh one if the guest answers. */
  async of(sandbox: ApiSandbox): Promise<readonly GuestSample[]> {
    const newest = this.#samples.get(sandbox)?.at(-1);
    if (newest === undefined || Date.now() - newest.atMs > freshMs) {
      await ignoreFailure(
        "a guest that does not answer has no newer sample",
        this.#sample(sandbox),
      );
    }
    return this.#samples.get(sandbox) ?? [];
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  /**
   * Asks one question at a time, because the agent reports processor use since the question before.
   */
  async #sample(sandbox: ApiSandbox): Promise<void> {
    const asking = this.#asking.get(sandbox) ?? this.#ask(sandbox);
    this.#asking.set(sandbox, asking);
    try {
      await asking;
    } finally {
      this.#asking.delete(sandbox);
    }
  }

  async #ask(sandbox: ApiSandbox): Promise<void> {
    const { run, record } = sandbox;
    if (run === undefined || record.state.kind !== "running") return;
    const deadline = Deadline.after(sampleBudgetMs, "asking a guest what it uses");
    const sample = await run.link.metrics(record.accessToken, deadline);
    const samples = [...(this.#samples.get(sandbox) ?? []), sample];
    this.#samples.set(sandbox, samples.slice(-samplesMax));
  }
}
