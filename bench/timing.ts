/** How long a piece of work takes, as a whole and in the steps of a verb. */
import type { StepTiming } from "@torpor/std";

/** How long `work` takes, in ms. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedMonoMs = performance.now();
  await work();
  return performance.now() - startedMonoMs;
}

/** The time of the steps from `first` to `last`, both included, in ms. */
export function tookMs(timings: readonly StepTiming[], first: string, last = first): number {
  const names = timings.map(({ step }) => step);
  const from = names.indexOf(first);
  const to = names.indexOf(last);
  if (from < 0 || to < from) throw new Error(`no steps from "${first}" to "${last}"`);
  return timings.slice(from, to + 1).reduce((sum, one) => sum + one.tookMs, 0);
}
