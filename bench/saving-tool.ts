/** A tool that saves a running guest and restores it, and how long that takes. */
import { setTimeout as sleep } from "node:timers/promises";
import type { PlainGuest } from "./plain-guest.ts";
import { timed } from "./timing.ts";

/** A guest that was just restored has work to do before it is idle. */
export const settleMs = 1_000;

/** Saves and restores one guest. */
export interface SavingTool {
  /** Returns when all of the guest is on disk, flushed, and its process has ended. */
  save(): Promise<void>;
  /** Returns when the guest continues where it was saved. */
  restore(): Promise<void>;
}

/** The times of one restore and save. */
export interface SavingCycle {
  readonly restoreMs: number;
  /** From the call for the restore to the agent's answer. */
  readonly answerMs: number;
  readonly saveMs: number;
}

/** Begins and ends with a saved guest: none runs while another tool is measured. */
export async function timeCycle(guest: PlainGuest, tool: SavingTool): Promise<SavingCycle> {
  const restoreMs = await timed(() => tool.restore());
  const answerMs = restoreMs + (await timed(() => guest.answer()));
  await sleep(settleMs);
  const saveMs = await timed(() => tool.save());
  return { restoreMs, answerMs, saveMs };
}
