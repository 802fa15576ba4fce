/** A tool that saves a running guest and brings it back, and how long that takes. */
import { setTimeout as sleep } from "node:timers/promises";
import type { PlainGuest } from "./plain-guest.ts";
import { timed } from "./timing.ts";

/** A guest that was just restored has things to do before it is idle. */
export const settleMs = 1_000;

export interface SavingTool {
  /** Returns when all of the guest is on disk, flushed, and its process has ended. */
  save(): Promise<void>;
  /** Returns when the guest goes on where it was saved. */
  restore(): Promise<void>;
}

export interface SavingCycle {
  readonly restoreMs: number;
  /** From the call for the restore to the agent's answer. */
  readonly answerMs: number;
  readonly saveMs: number;
}

/** Begins and ends with a guest that is saved: none runs while another tool is measured. */
export async function timeCycle(guest: PlainGuest, tool: SavingTool): Promise<SavingCycle> {
  const restoreMs = await timed(() => tool.restore());
  const answerMs = restoreMs + (await timed(() => guest.answer()));
  await sleep(settleMs);
  const saveMs = await timed(() => tool.save());
  return { restoreMs, answerMs, saveMs };
}
