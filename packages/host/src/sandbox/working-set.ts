/**
 * What a wake's guest has used of its memory by the time it is ready, as a record for the next one.
 *
 * Ready is it when `init` is done, because that is when whoever asked for the sandbox has it. He has it
 * first: only then the kernel is asked, which takes a millisecond or two, or the pager, which has kept count.
 */
import { setImmediate as yieldToOthers } from "node:timers/promises";
import { type PagerProcess, writeWorkingSet } from "@torpor/pager";
import { Deadline, ignoreFailure } from "@torpor/std";
import { pageBytes } from "@torpor/storage";
import type { SandboxRun } from "../steps/run.ts";
import type { WakeRecords } from "../working-sets.ts";
import type { Turn } from "./writer.ts";

const pagerBudgetMs = 5_000;

/** In a turn of its own, after this one. Without a record the next wake takes longer, and this one is as good. */
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

/** @returns false where it cannot be told, as of a VMM that loads its memory from a file of its own. */
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
