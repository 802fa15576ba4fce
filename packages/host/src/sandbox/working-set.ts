/**
 * Records which memory a guest has used by the time it is ready, for the next wake.
 *
 * A guest is ready when `init` returns. The daemon answers the client first, and only then asks the
 * kernel, which takes a millisecond or two, or the pager, which has kept count.
 */
import { setImmediate as yieldToOthers } from "node:timers/promises";
import { type PagerProcess, writeWorkingSet } from "@torpor/pager";
import { Deadline, ignoreFailure } from "@torpor/std";
import { pageBytes } from "@torpor/storage";
import type { SandboxRun } from "../steps/run.ts";
import type { WakeRecords } from "../working-sets.ts";
import type { Turn } from "./writer.ts";

const pagerBudgetMs = 5_000;

/**
 * Records the working set in a later turn. A failure costs this wake nothing; the next one takes
 * longer.
 */
export function recordWorkingSet(turn: Turn, run: SandboxRun, records: WakeRecords): void {
  const { recordPath } = records;
  if (recordPath === undefined) return;
  const recorded = turn.later(async (later) => {
    await yieldToOthers();
    if (later.run !== run) return;
    const isWritten =
      run.pager === undefined ? writeUsed(run, recordPath) : await askPager(later, run.pager);
    if (isWritten) await later.host.workingSets.share(records);
  });
  void ignoreFailure("the failure is in the log of the queue", recorded);
}

async function askPager({ log }: Turn, pager: PagerProcess): Promise<boolean> {
  const deadline = Deadline.after(pagerBudgetMs, "recording a working set");
  const { recordedPages, remark } = await pager.saveWorkingSet(deadline);
  if (recordedPages >= 0) return true;
  log.warn("the pager could not record the working set", { remark });
  return false;
}

/**
 * @returns false if the pages are not known, as for a VMM that loads its memory from a file of its
 *   own
 */
function writeUsed({ vm: { memory } }: SandboxRun, path: string): boolean {
  const used = memory.usedRanges();
  if (used === undefined) return false;
  const ranges = used.map(({ startBytes, endBytes }) => ({
    firstPage: startBytes / pageBytes,
    endPage: endBytes / pageBytes,
  }));
  writeWorkingSet(path, { sizeBytes: memory.sizeBytes, ranges });
  return true;
}
