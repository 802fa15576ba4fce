/** What a waking guest has touched until it was ready, as its pager has seen it: a record for later wakes. */
import { Deadline, ignoreFailure } from "@torpor/std";
import type { SandboxRun } from "../steps/run.ts";
import type { WakeRecords } from "../working-sets.ts";
import type { Turn } from "./writer.ts";

const recordBudgetMs = 5_000;

/** In a turn of its own, after this one. Without a record the next wake takes longer, and this one is as good. */
export function recordByPager(turn: Turn, { pager }: SandboxRun, records: WakeRecords): void {
  if (pager === undefined || records.recordPath === undefined) return;
  const recorded = turn.later(async ({ host, log }) => {
    const deadline = Deadline.after(recordBudgetMs, "recording a working set");
    const { recordedPages, remark } = await pager.saveWorkingSet(deadline);
    if (recordedPages >= 0) await host.workingSets.share(records);
    else log.warn("the pager could not record the working set", { remark });
  });
  void ignoreFailure("the failure is in the log of the queue", recorded);
}
