/** Options that every request to a sandbox accepts, and the result that most of them return. */
import type { StepTiming } from "@torpor/std";

/** Options of a request to a sandbox. */
export interface Command {
  /** The generation of the run that the request is for; without it, any run. */
  readonly epoch?: number | undefined;
  /** Called when the request's turn in the queue comes; if it returns false, nothing is done. */
  readonly stillWanted?: (() => boolean) | undefined;
}

/** Whether a request changed anything, and how long each of its steps took. */
export interface Outcome {
  /** False when the sandbox already was as requested. */
  readonly changed: boolean;
  readonly timings: readonly StepTiming[];
}

/** The outcome of a request that had nothing to do. */
export const unchanged: Outcome = { changed: false, timings: [] };
