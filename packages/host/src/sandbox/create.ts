/**
 * How a sandbox begins: at once, or as a spare that a caller claims later. Its record says
 * "creating" from the start; if anything fails, nothing is left of the sandbox.
 */
import { mkdir } from "node:fs/promises";
import { runSteps } from "@torpor/std";
import type { SandboxRecord } from "../records/sandbox-records.ts";
import { type WakeContext, claimSteps, spareSteps } from "../steps/wake.ts";
import type { Outcome } from "./command.ts";
import { remove } from "./remove.ts";
import { enterRunning, newWakeContext, wake } from "./wake.ts";
import type { Turn } from "./writer.ts";

/** The fields of a new sandbox that come from the caller who requested it. */
export type SandboxOwner = Pick<
  SandboxRecord,
  "metadata" | "envVars" | "lifetime" | "accessToken" | "network" | "autoResume"
>;

/**
 * Makes a spare of a new sandbox: restored, warmed up, and held until `create` claims it.
 * @throws whatever the steps of a spare throw; nothing is left of the sandbox then
 */
export function prepareSpare(turn: Turn): Promise<Outcome> {
  return orNothing(turn, async () => {
    // Two generations, because the warm-up's own init takes one.
    const context = await newWakeContext(turn, "create", turn.record.snapshotId, 2);
    const timings = await runSteps(spareSteps, context, turn.stepOptions("prepare"));
    turn.spare = context;
    return { changed: true, timings };
  });
}

/**
 * Starts a new sandbox for its owner, or claims it if it is a spare.
 * @param verifyDisk False when the same layers have just been verified or written.
 * @throws whatever the steps of a wake throw; nothing is left of the sandbox then
 */
export function create(turn: Turn, owner: SandboxOwner, verifyDisk: boolean): Promise<Outcome> {
  return orNothing(turn, async () => {
    await turn.save({ ...owner, createdAtMs: Date.now() });
    if (turn.spare !== undefined) return await claimSpare(turn, turn.spare, owner);
    const context = await newWakeContext(turn, "create", turn.record.snapshotId, 1);
    return await wake(turn, "create", { ...context, verifyDisk });
  });
}

async function claimSpare(
  turn: Turn,
  spare: WakeContext,
  { envVars, accessToken, network }: SandboxOwner,
): Promise<Outcome> {
  const claimed = {
    ...spare,
    networkRequest: network,
    init: { ...spare.init, envVars, accessToken },
  };
  const timings = await runSteps(claimSteps, claimed, turn.stepOptions("create"));
  turn.spare = undefined;
  return await enterRunning(turn, claimed, timings);
}

/** Runs `work`, which makes this sandbox. If it fails, removes everything of the sandbox. */
async function orNothing<T>(turn: Turn, work: () => Promise<T>): Promise<T> {
  try {
    await mkdir(turn.folder.path, { recursive: true, mode: 0o700 });
    return await work();
  } catch (cause) {
    await remove(turn);
    throw cause;
  }
}
