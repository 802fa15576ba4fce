/**
 * Pauses a sandbox. The record says "pausing", and which snapshot will be published, so that a
 * later daemon can tell whether it was. Until it is published a failure leaves the sandbox running;
 * after that it is paused, whatever happens to its VM.
 */
import { ignoreFailure, runSteps } from "@torpor/std";
import { newSnapshotId } from "../entropy.ts";
import { keepLastWords } from "../last-words.ts";
import { rest } from "../lifecycle/lifetime.ts";
import { pauseSteps } from "../steps/pause.ts";
import type { Outcome } from "./command.ts";
import { clearRuns, endRunAnyway } from "./run.ts";
import { newSaveContext, runToSave } from "./save.ts";
import type { Turn } from "./writer.ts";

/**
 * Saves a running sandbox to disk and ends its VM.
 * @throws whatever the steps of a pause throw; the sandbox is then running, or paused if the
 *   snapshot was published already
 */
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
      // The guest must not continue alongside its snapshot.
      run.traffic.cut("paused");
      await endRunAnyway(turn, run);
      await enterPaused(turn, snapshotId);
    } else {
      await turn.rest({ ...running, kind: "running" });
    }
    throw cause;
  }
}

/** Moves the sandbox to "paused", once its snapshot is durable and its VM has ended. */
export async function enterPaused(turn: Turn, snapshotId: string): Promise<void> {
  turn.run = undefined;
  turn.base = undefined;
  const { generation, lifetime, startedAtMs } = turn.record;
  const keeping = keepLastWords(turn.folder, generation);
  await ignoreFailure("those of the run before stay then", keeping);
  // ORDER: the next daemon does not settle a sandbox whose record says "paused", so clear first.
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
