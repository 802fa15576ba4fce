/**
 * Runs a lifecycle verb as a list of named steps.
 *
 * Each step has a budget and acquires its undo together with its effect, by `undo.defer(…)` on the
 * stack it receives. If a step fails, everything so far is undone, newest first, under a budget of
 * its own that the caller's cancellation cannot shorten. A step marked `commit` is the point of no
 * return: after it nothing is undone, because the result is already what the caller asked for; a
 * later failure is reported with effect "done".
 *
 * A `Failpoint` sees every step before and after it runs. Production passes none; fault-injection
 * tests use it to fail, repeat or kill at each step by name. If it answers "repeat" after a step,
 * the step runs once more: a caller may repeat a step because the answer to its first run was lost,
 * and the repetition must then either work or fail and be undone.
 */
import { performance } from "node:perf_hooks";
import { Deadline } from "./deadline.ts";
import { TorporError } from "./errors.ts";

/** One step of a lifecycle verb; every step of a verb shares its `context`. */
export interface Step<Context> {
  readonly name: string;
  readonly budgetMs: number;
  readonly commit?: boolean;
  run(context: Context, deadline: Deadline, undo: AsyncDisposableStack): Promise<void>;
}

/** How long a step took, its failpoint included. */
export interface StepTiming {
  readonly step: string;
  readonly tookMs: number;
}

/** `undefined` lets the work continue. "repeat" counts only after a step, and only once. */
export type FailpointAnswer = "repeat" | undefined | void;

/** A hook of fault-injection tests around every step; it fails the step by throwing. */
export type Failpoint = (
  step: string,
  moment: "before" | "after",
) => Promise<FailpointAnswer> | FailpointAnswer;

/** Settings of `runSteps`, besides the steps and their context. */
export interface RunStepsOptions {
  /** The verb, for messages: "pause". */
  readonly verb: string;
  readonly failpoint?: Failpoint | undefined;
  readonly onTiming?: ((timing: StepTiming) => void) | undefined;
}

/**
 * Runs the steps in order and returns how long each took.
 * @throws TorporError of the step that failed, with the step's name in its message.
 */
export async function runSteps<Context>(
  steps: readonly Step<Context>[],
  context: Context,
  options: RunStepsOptions,
): Promise<readonly StepTiming[]> {
  const timings: StepTiming[] = [];
  let undo = new AsyncDisposableStack();
  let committed = false;
  for (const step of steps) {
    const startedMonoMs = performance.now();
    const deadline = Deadline.after(step.budgetMs, `${options.verb}: ${step.name}`);
    try {
      await options.failpoint?.(step.name, "before");
      await step.run(context, deadline, undo);
      const answer = await options.failpoint?.(step.name, "after");
      if (answer === "repeat") await step.run(context, deadline, undo);
    } catch (cause) {
      throw await abandon(cause, `${options.verb} failed at "${step.name}"`, undo, committed);
    }
    const timing = { step: step.name, tookMs: performance.now() - startedMonoMs };
    timings.push(timing);
    options.onTiming?.(timing);
    if (step.commit === true) {
      undo.move();
      undo = new AsyncDisposableStack();
      committed = true;
    }
  }
  undo.move();
  return timings;
}

async function abandon(
  cause: unknown,
  what: string,
  undo: AsyncDisposableStack,
  committed: boolean,
): Promise<TorporError> {
  const failure = TorporError.from(cause, "internal");
  const described = (effect: TorporError["effect"]): TorporError =>
    new TorporError(failure.code, `${what}: ${failure.rawMessage}`, {
      cause,
      effect,
      advice: failure.advice,
      details: failure.details,
    });
  if (committed) return described("done");
  try {
    await undo.disposeAsync();
  } catch (undoFailure) {
    return new TorporError(failure.code, `${what}: ${failure.rawMessage}; undoing it failed too`, {
      cause: new AggregateError([cause, undoFailure]),
      effect: "maybe",
      advice: failure.advice,
      details: failure.details,
    });
  }
  return described("none");
}
