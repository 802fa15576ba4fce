/**
 * What running guests use of processor, memory and disk: asked of each agent at an interval, the newest
 * samples kept in memory. They go with the daemon and with the sandbox; one that sleeps keeps its own.
 */
import { type GuestSample } from "@torpor/guest";
import { Deadline, ignoreFailure } from "@torpor/std";
import type { ApiSandbox } from "./api/api-host.ts";

const sampleEveryMs = 10_000;
const sampleBudgetMs = 3_000;
/** LIMIT: an hour of samples, some 50 KiB. */
const samplesMax = 360;
/** A client that asks sooner is told of the sample that there is. */
const freshMs = 2_000;

export class GuestMetrics implements Disposable {
  readonly #samples = new WeakMap<ApiSandbox, readonly GuestSample[]>();
  readonly #asking = new WeakMap<ApiSandbox, Promise<void>>();
  readonly #timer: NodeJS.Timeout;

  /** From now on until disposed. */
  constructor(all: () => readonly ApiSandbox[]) {
    this.#timer = setInterval(() => {
      for (const sandbox of all()) {
        if (sandbox.run !== undefined) void ignoreFailure("asked again", this.#sample(sandbox));
      }
    }, sampleEveryMs);
    this.#timer.unref();
  }

  /** Oldest first, with a fresh one if the guest answers. */
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

  /** One question at a time: the processor's share counts from the one before. */
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
