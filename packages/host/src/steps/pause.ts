/**
 * How a running sandbox goes to sleep on disk.
 *
 * The order, each step with its budget and its undo:
 *
 *   1. check space      enough room for the worst case, before anything is disturbed
 *   2. stage            a folder to write the snapshot into                  undo: remove it
 *   3. open layers      the snapshot before, which this one stands upon      undo: close them
 *   4. close idle       the host's own idle connections to the agent
 *   5. prepare          the agent runs hooks, refuses new work, quiets itself, freezes user
 *                       processes, collects garbage last and answers on a closing connection
 *                                                                            undo: cancel
 *   6. hold vCPUs       the instant of the snapshot                          undo: release
 *   7. flush disk       what the guest wrote is in its layer
 *   8. save device state
 *   9. save memory      pages that differ from the layers below
 *  10. publish          everything flushed, then renamed into place: the point of no return
 *  11. end VM           connections cut, process gone
 *
 * Any failure before 10 is done leaves the sandbox running and thawed. After it the sandbox is
 * paused, whatever happens to the VM.
 */
import type { Deadline, Step } from "@torpor/std";
import { endRun } from "./run.ts";
import {
  type SaveContext,
  checkSpace,
  closeIdle,
  flushDisk,
  holdVcpus,
  openLayersBelow,
  prepareGuest,
  publish,
  saveDeviceState,
  saveMemory,
  stage,
} from "./save.ts";

export const pauseSteps: readonly Step<SaveContext>[] = [
  { name: "check space", budgetMs: 5_000, run: checkSpace },
  { name: "stage", budgetMs: 5_000, run: stage },
  { name: "open layers", budgetMs: 10_000, run: openLayersBelow },
  { name: "close idle", budgetMs: 1_000, run: closeIdle },
  { name: "prepare", budgetMs: 30_000, run: prepareGuest("pause") },
  { name: "hold vCPUs", budgetMs: 5_000, run: holdVcpus },
  { name: "flush disk", budgetMs: 30_000, run: flushDisk },
  { name: "save device state", budgetMs: 120_000, run: saveDeviceState },
  { name: "save memory", budgetMs: 120_000, run: saveMemory },
  { name: "publish", budgetMs: 60_000, commit: true, run: publish },
  { name: "end VM", budgetMs: 15_000, run: endVm },
];

async function endVm({ run }: SaveContext, deadline: Deadline): Promise<void> {
  await endRun(run, deadline);
}
