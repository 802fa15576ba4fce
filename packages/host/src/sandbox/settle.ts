/**
 * Settles a sandbox when the daemon starts. Its record says what the daemon before was doing, and the
 * files on disk say how far it got:
 *
 *     running                   the VM is adopted, or the sandbox has failed
 *     checkpointing             the same: the snapshot is discarded, and the guest continues
 *     pausing, published        paused; a VM that still runs is ended
 *     pausing, not published    the VM is adopted, its guest released and thawed, or it has failed
 *     resuming                  paused
 *     creating, removing        removed
 *     paused, failed            unchanged
 */
import { Deadline, TorporError } from "@torpor/std";
import { type SandboxState, runningVmOf } from "../lifecycle/state.ts";
import { applyNetwork } from "../network-rules.ts";
import { type SandboxRun, adoptRun, endRun } from "../steps/run.ts";
import { enterPaused } from "./pause.ts";
import { remove } from "./remove.ts";
import { attach, clearRuns, endStrays, enterFailed } from "./run.ts";
import { goOnIfHeld } from "./stall.ts";
import type { Turn } from "./writer.ts";

const adoptBudgetMs = 15_000;

/** The states in which the record names a VM. */
type StateWithVm = Extract<SandboxState, { kind: "running" | "checkpointing" | "pausing" }>;

/**
 * Whether there is nothing to settle: most sandboxes are paused, and must add nothing to a start.
 */
export function isAtRest({ kind }: SandboxState): boolean {
  return kind === "paused" || kind === "failed";
}

/** Brings a sandbox to a resting state, or removes it, by the table above. */
export async function settle(turn: Turn): Promise<void> {
  const { state } = turn.record;
  switch (state.kind) {
    case "running":
    case "checkpointing":
    case "pausing":
      await settleRun(turn, state);
      break;
    case "resuming":
      await clearRuns(turn);
      await turn.rest({ kind: "paused" });
      break;
    case "creating":
    case "removing":
      await remove(turn);
      break;
    case "paused":
    case "failed":
      break; // console and logs of one that failed stay readable until it is removed
  }
}

async function settleRun(turn: Turn, state: StateWithVm): Promise<void> {
  const { host } = turn;
  const deadline = Deadline.after(adoptBudgetMs, "adopting a running VM");
  const published = state.kind === "pausing" && (await host.store.has(state.snapshotId));
  let run: SandboxRun;
  try {
    run = await adoptRun(host, state, turn.record, deadline);
  } catch (cause) {
    turn.log.warn("the VM did not outlive the daemon, or does not answer", { cause });
    await endStrays(turn);
    if (published) await enterPaused(turn, state.snapshotId);
    else await enterFailed(turn, lostVmReason(cause), []);
    return;
  }
  if (published) {
    await endRun(run, deadline);
    await enterPaused(turn, state.snapshotId);
  } else {
    await takeOver(turn, state, run);
  }
}

async function takeOver(turn: Turn, state: StateWithVm, run: SandboxRun): Promise<void> {
  const { host } = turn;
  try {
    applyNetwork(run.network, turn.record.network);
  } catch (cause) {
    turn.log.warn("a sandbox that was taken over reaches nothing", { cause });
  }
  await goOnIfHeld(turn, run);
  if (state.kind !== "running") await turn.rest({ kind: "running", ...runningVmOf(state) });
  const { snapshotId } = turn.record;
  if (snapshotId !== null) {
    turn.base = await host.store.read(snapshotId).catch((cause: unknown) => {
      turn.log.error("a running sandbox cannot be saved", { cause });
      return undefined;
    });
  }
  attach(turn, run);
}

function lostVmReason(cause: unknown): string {
  return `no VM to take over: ${TorporError.from(cause, "vmm.failed").rawMessage}`;
}
