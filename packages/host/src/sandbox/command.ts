/** What every request to a sandbox may say of itself, and what most of them answer. */
import type { StepTiming } from "@torpor/std";

export interface Command {
  /** The run it is meant for; whichever there is, when it names none. */
  readonly epoch?: number | undefined;
  /** Asked when its turn in the queue has come: if not, nothing is done. */
  readonly stillWanted?: (() => boolean) | undefined;
}

/** What a request did, and how long each step of it took. */
export interface Outcome {
  /** False when the sandbox already was as asked. */
  readonly changed: boolean;
  readonly timings: readonly StepTiming[];
}

export const unchanged: Outcome = { changed: false, timings: [] };
