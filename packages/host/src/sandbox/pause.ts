/**
 * A sandbox goes to sleep. The record says "pausing", and which snapshot will be published, so that a
 * later daemon can tell whether it was. Up to then a failure leaves the sandbox running; from then on it
 * is paused, whatever happens to its VM.
 */
import { runSteps } from "@torpor/std";
import { newSnapshotId } from "../entropy.ts";
import { rest } from "../lifecycle/lifetime.ts";
import { pauseSteps } from "../steps/pause.ts";
import type { Outcome } from "./command.ts";
import { clearRuns, endRunAnyway } from "./run.ts";
import { newSaveContext, runToSave } from "./save.ts";
import type { Turn } from "./writer.ts";

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
    if (published) {
      // It must not go on beside its snapshot.
      run.traffic.cut("paused");
      await endRunAnyway(turn, run);
      await enterPaused(turn, snapshotId);
    } else {
      await turn.rest({ ...running, kind: "running" });
    }
    throw cause;
  }
}

/** The snapshot is durable: the sandbox is paused. */
export async function enterPaused(turn: Turn, snapshotId: string): Promise<void> {
  turn.run = undefined;
  turn.base = undefined;
  const { lifetime, startedAtMs } = turn.record;
  // ORDER: a record that says "paused" is not looked at by the next daemon, so nothing is left by then.
  await clearRuns(turn).catch((cause: unknown) => {
    turn.log.warn("what a run left stays until the next pause or removal", { cause });
  });
  await turn.rest(
    { kind: "paused" },
    {
      snapshotId,
      previousSnapshotId: turn.record.snapshotId,
      lifetime: rest(lifetime, startedAtMs, Date.now()),
    },
  );
  turn.events.saved();
  turn.events.timed();
}
