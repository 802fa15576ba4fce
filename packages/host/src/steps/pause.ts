/**
 * How a running sandbox is paused: saved to disk, and its VM ended.
 *
 * The steps in order, and what undoes each; their budgets are in the list below:
 *
 *   1. check space      enough room for the worst case, before anything is disturbed
 *   2. stage            a folder to write the snapshot into                  undo: remove it
 *   3. open layers      the snapshot before, which this one builds on, stays
 *                       open until 11 is done                                undo: close them
 *   4. hold requests    clients' new requests wait for the outcome           undo: let them in
 *   5. drain            requests in flight have a moment to finish
 *   6. close idle       idle connections to the guest
 *   7. prepare          the agent runs hooks, refuses new work, quiets itself, freezes user
 *                       processes, collects garbage last and answers on a closing connection
 *                                                                            undo: cancel
 *   8. hold vCPUs       the instant of the snapshot                          undo: release
 *   9. flush disk       what the guest wrote is in its layer
 *  10. save device state
 *  11. save memory      pages that differ from the layers below, or all if those are damaged
 *  12. publish          everything flushed, then renamed into place: the point of no return
 *  13. end VM           connections cut, clients notified, process gone
 *
 * Any failure before 12 is done leaves the sandbox running and thawed, with its requests in flight.
 * After 12 the sandbox is paused, whatever happens to the VM.
 */
import type { Deadline, Step } from "@torpor/std";
import { endRun } from "./run.ts";
import {
  type SaveContext,
  checkSpace,
  closeIdle,
  flushDisk,
  holdRequests,
  holdVcpus,
  openLayersBelow,
  prepareGuest,
  publish,
  saveDeviceState,
  saveMemory,
  stage,
} from "./save.ts";

/** LIMIT: far above the largest setting of `drainMs`. */
const drainBudgetMs = 120_000;

/** The steps of a pause, in order. */
export const pauseSteps: readonly Step<SaveContext>[] = [
  { name: "check space", budgetMs: 5_000, run: checkSpace },
  { name: "stage", budgetMs: 5_000, run: stage },
  { name: "open layers", budgetMs: 10_000, run: openLayersBelow },
  { name: "hold requests", budgetMs: 1_000, run: holdRequests },
  { name: "drain", budgetMs: drainBudgetMs, run: drain },
  { name: "close idle", budgetMs: 1_000, run: closeIdle },
  { name: "prepare", budgetMs: 30_000, run: prepareGuest("pause") },
  { name: "hold vCPUs", budgetMs: 5_000, run: holdVcpus },
  { name: "flush disk", budgetMs: 30_000, run: flushDisk },
  { name: "save device state", budgetMs: 120_000, run: saveDeviceState },
  { name: "save memory", budgetMs: 120_000, run: saveMemory },
  { name: "publish", budgetMs: 60_000, commit: true, run: publish },
  { name: "end VM", budgetMs: 15_000, run: endVm },
];

/**
 * Waits for short requests only: a stream may last for hours, and is cut once the snapshot is safe.
 */
async function drain({ run, drainMs }: SaveContext): Promise<void> {
  await run.traffic.drain(drainMs);
}

async function endVm({ run, log }: SaveContext, deadline: Deadline): Promise<void> {
  const { request, stream, upgraded } = run.traffic.cut("paused");
  if (request + stream + upgraded > 0) {
    log.info("the pause cut what was in flight", { request, stream, upgraded });
  }
  await endRun(run, deadline);
}
