/**
 * An instant of a sandbox that goes on, for a snapshot of a user's and for a fork. The record says
 * "checkpointing" meanwhile, and names the new disk layer before the VM writes to it; whatever happens,
 * the sandbox runs on.
 */
import { type StepTiming, assert, runSteps } from "@torpor/std";
import { newDiskLayerId } from "../entropy.ts";
import { type RunningVm, enter } from "../lifecycle/state.ts";
import { type CheckpointContext, checkpointSteps } from "../steps/checkpoint.ts";
import { newSaveContext, runToSave } from "./save.ts";
import type { Turn } from "./writer.ts";

/** The instant of a sandbox; disposing it lets it be collected, unless somebody else needs it. */
export interface Checkpoint extends Disposable {
  readonly snapshotId: string;
  /** Whether it was taken now; that of a paused sandbox has been there before. */
  readonly isNew: boolean;
  readonly timings: readonly StepTiming[];
}

export async function checkpoint(turn: Turn, snapshotId: string): Promise<readonly StepTiming[]> {
  const { host } = turn;
  const { run, running } = await runToSave(turn);
  const newDiskLayer = newDiskLayerId();
  using holds = new DisposableStack();
  holds.use(host.store.keep(snapshotId, newDiskLayer));
  const saving = await newSaveContext(turn, snapshotId, run);
  const { diskBytes } = (await host.templates.open(turn.record.templateId)).manifest;
  let vm: RunningVm = running;
  const recordDiskLayer = async (): Promise<void> => {
    vm = { ...running, openDisks: [...running.openDisks, newDiskLayer] };
    await turn.save({
      diskLayers: [...turn.record.diskLayers, newDiskLayer],
      state: { ...vm, kind: "checkpointing", snapshotId },
    });
  };
  await turn.move({ ...running, kind: "checkpointing", snapshotId });
  try {
    const context: CheckpointContext = { ...saving, newDiskLayer, diskBytes, recordDiskLayer };
    const timings = await runSteps(checkpointSteps, context, turn.stepOptions("checkpoint"));
    await turn.save({
      state: enter(turn.record.state, { ...vm, kind: "running" }),
      snapshotId,
      previousSnapshotId: turn.record.snapshotId,
    });
    turn.base = context.published;
    turn.events.saved();
    return timings;
  } catch (cause) {
    await turn.rest({ ...vm, kind: "running" });
    throw cause;
  }
}

/** The newest snapshot, which a paused sandbox is and a running one has just been given. */
export function keepCheckpoint(
  { host, record: { snapshotId } }: Turn,
  isNew: boolean,
  timings: readonly StepTiming[],
): Checkpoint {
  assert(snapshotId !== null, "a checkpoint has a snapshot");
  const kept = host.store.keep(snapshotId);
  return { snapshotId, isNew, timings, [Symbol.dispose]: () => kept[Symbol.dispose]() };
}
