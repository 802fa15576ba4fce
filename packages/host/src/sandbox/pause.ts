/**
 * A sandbox goes to sleep. The record says "pausing", and which snapshot will be published, so that a
 * later daemon can tell whether it was. Up to then a failure leaves the sandbox running; from then on it
 * is paused, whatever happens to its VM.
 */
import { Deadline, runSteps } from "@torpor/std";
import { newSnapshotId } from "../entropy.ts";
import { rest } from "../lifecycle/lifetime.ts";
import { enter } from "../lifecycle/state.ts";
import { pauseSteps } from "../steps/pause.ts";
import { type SandboxRun, endRun } from "../steps/run.ts";
import type { Outcome } from "./command.ts";
import { clearRuns } from "./run.ts";
import { newSaveContext, runToSave } from "./save.ts";
import type { Turn } from "./writer.ts";

const endBudgetMs = 15_000;

export async function pause(turn: Turn): Promise<Outcome> {
  const { run, running } = await runToSave(turn);
  const snapshotId = newSnapshotId();
  using holds = new DisposableStack();
  holds.use(turn.host.store.keep(snapshotId));
  const context = await newSaveContext(turn, snapshotId, run);
  await turn.move({ ...running, kind: "pausing", snapshotId });
  let published = false;
  try {
    const timings = await runSteps(pauseSteps, context, {
      ...turn.stepOptions("pause"),
      onTiming: ({ step }) => {
        published ||= step === "publish";
      },
    });
    await enterPaused(turn, snapshotId);
    return { changed: true, timings };
  } catch (cause) {
    if (published) await endPublished(turn, run, snapshotId);
    else await turn.move({ ...running, kind: "running" });
    throw cause;
  }
}

/** The snapshot is durable: the sandbox is paused. */
export async function enterPaused(turn: Turn, snapshotId: string): Promise<void> {
  turn.run = undefined;
  const { lifetime, startedAtMs } = turn.record;
  await turn.save({
    state: enter(turn.record.state, { kind: "paused" }),
    snapshotId,
    previousSnapshotId: turn.record.snapshotId,
    lifetime: rest(lifetime, startedAtMs, Date.now()),
  });
  await clearRuns(turn);
  turn.events.saved();
  turn.events.timed();
}

/** Publishing worked and ending the VM did not: it must not go on beside its snapshot. */
async function endPublished(turn: Turn, run: SandboxRun, snapshotId: string): Promise<void> {
  run.traffic.cut("paused");
  try {
    await endRun(run, Deadline.after(endBudgetMs, "ending a VM whose snapshot is published"));
  } catch (cause) {
    turn.log.error("a VM cannot be ended; the next start of the daemon tries again", { cause });
  }
  await enterPaused(turn, snapshotId);
}
