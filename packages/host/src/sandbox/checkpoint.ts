/**
 * Takes an instant of a sandbox that keeps running, for a user's snapshot and for a fork. Meanwhile
 * the record says "checkpointing", and it names the new disk layer before the VM writes to it.
 * Whether the checkpoint succeeds or fails, the sandbox keeps running.
 */
import { type StepTiming, assert, runSteps } from "@torpor/std";
import { newDiskLayerId } from "../entropy.ts";
import { type RunningVm, enter } from "../lifecycle/state.ts";
import { type CheckpointContext, checkpointSteps } from "../steps/checkpoint.ts";
import { newSaveContext, runToSave } from "./save.ts";
import type { Turn } from "./writer.ts";

/**
 * An instant of a sandbox. Disposing it lets its snapshot be garbage-collected, unless something
 * else needs it.
 */
export interface Checkpoint extends Disposable {
  readonly snapshotId: string;
  /** Whether it was taken now; a paused sandbox's was there before. */
  readonly isNew: boolean;
  readonly timings: readonly StepTiming[];
}

/**
 * Saves a running sandbox as `snapshotId`, which becomes its newest snapshot, and lets it continue.
 * @throws whatever the steps of a checkpoint throw; the sandbox is then running as before
 */
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

/**
 * Keeps the sandbox's newest snapshot: the one it is paused in, or the one just taken of a running
 * sandbox.
 */
export function keepCheckpoint(
  { host, record: { snapshotId } }: Turn,
  isNew: boolean,
  timings: readonly StepTiming[],
): Checkpoint {
  assert(snapshotId !== null, "a checkpoint has a snapshot");
  const kept = host.store.keep(snapshotId);
  return { snapshotId, isNew, timings, [Symbol.dispose]: () => kept[Symbol.dispose]() };
}
