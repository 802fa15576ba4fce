/**
 * Spare sandboxes: restored, warmed up and held before anybody asks for one.
 *
 * A spare is a sandbox like any other whose `create` has nearly nothing left to do. It belongs to
 * nobody: it is not listed, ends with the daemon, and one that a killed daemon left is removed by the
 * next, because its record still says "creating". Spares are made one at a time and a moment after the
 * last request, so that making them does not slow down what they are made for.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ignoreFailure } from "@torpor/std";
import type { TemplateManifest } from "@torpor/storage";
import type { HostContext } from "./host-context.ts";
import type { Sandbox } from "./sandbox.ts";

/** The first command of the sandbox that was just handed out has this long to itself. */
const quietMs = 1_000;

export class Spares {
  readonly #host: HostContext;
  readonly #make: (manifest: TemplateManifest) => Sandbox;
  readonly #ready = new Map<string, Sandbox[]>();
  readonly #ending = new AbortController();
  #work: Promise<void> = Promise.resolve();

  constructor(host: HostContext, make: (manifest: TemplateManifest) => Sandbox) {
    this.#host = host;
    this.#make = make;
  }

  /** How many are ready, of all templates. */
  get readyCount(): number {
    return [...this.#ready.values()].flat().length;
  }

  /** A spare of this template, or undefined; another is made in its place either way. */
  take(manifest: TemplateManifest): Sandbox | undefined {
    const spare = this.#of(manifest).shift();
    this.refill(manifest);
    return spare;
  }

  /** Makes what is missing, in the background. */
  refill(manifest: TemplateManifest): void {
    if (this.#host.spareCount === 0) return;
    this.#work = this.#work.then(() =>
      ignoreFailure("without a spare a sandbox takes its whole time", this.#fill(manifest)),
    );
  }

  /** Ends all of them and makes no more. */
  async end(): Promise<void> {
    this.#ending.abort();
    await this.#work;
    const spares = [...this.#ready.values()].flat();
    this.#ready.clear();
    // One that resists is removed by the next daemon.
    await Promise.allSettled(spares.map((spare) => spare.remove()));
  }

  async #fill(manifest: TemplateManifest): Promise<void> {
    const ready = this.#of(manifest);
    while (ready.length < this.#host.spareCount) {
      await sleep(quietMs, undefined, { signal: this.#ending.signal });
      const spare = this.#make(manifest);
      await spare.prepareSpare();
      ready.push(spare);
    }
  }

  #of({ templateId }: TemplateManifest): Sandbox[] {
    const ready = this.#ready.get(templateId) ?? [];
    this.#ready.set(templateId, ready);
    return ready;
  }
}
