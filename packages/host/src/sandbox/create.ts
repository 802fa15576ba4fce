/**
 * How a sandbox begins: at once, or as a spare that somebody is given later. It begins with its record,
 * which says "creating"; if anything fails, nothing of it is left.
 */
import { mkdir } from "node:fs/promises";
import { runSteps } from "@torpor/std";
import type { SandboxRecord } from "../records/sandbox-records.ts";
import { type WakeContext, claimSteps, spareSteps } from "../steps/wake.ts";
import type { Outcome } from "./command.ts";
import { remove } from "./remove.ts";
import { enterRunning, newWakeContext, wake } from "./wake.ts";
import type { Turn } from "./writer.ts";

/** What a new sandbox has of whoever asked for it. */
export type SandboxOwner = Pick<
  SandboxRecord,
  "metadata" | "envVars" | "lifetime" | "accessToken" | "network" | "autoResume"
>;

export function prepareSpare(turn: Turn): Promise<Outcome> {
  return orNothing(turn, async () => {
    // The warm-up's own init takes a generation, too.
    const context = await newWakeContext(turn, "create", turn.record.snapshotId, 2);
    const timings = await runSteps(spareSteps, context, turn.stepOptions("prepare"));
    turn.spare = context;
    return { changed: true, timings };
  });
}

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

/** Runs what makes this sandbox; if it fails, nothing is left. */
async function orNothing<T>(turn: Turn, work: () => Promise<T>): Promise<T> {
  try {
    await mkdir(turn.folder.path, { recursive: true, mode: 0o700 });
    return await work();
  } catch (cause) {
    await remove(turn);
    throw cause;
  }
}
