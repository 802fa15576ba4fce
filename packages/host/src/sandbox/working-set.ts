/**
 * What a wake's guest has used of its memory by the time it is ready, as a record for the next one.
 *
 * Ready is it when `init` is done, because that is when whoever asked for the sandbox has it. He has it
 * first: only then the kernel is asked, which takes a millisecond or two.
 */
import { setImmediate as yieldToOthers } from "node:timers/promises";
import { writeWorkingSet } from "@torpor/pager";
import { ignoreFailure } from "@torpor/std";
import { pageBytes } from "@torpor/storage";
import type { SandboxRun } from "../steps/run.ts";
import type { WakeRecords } from "../working-sets.ts";
import type { Turn } from "./writer.ts";

/** In a turn of its own, after this one. Without a record the next wake takes longer, and this one is as good. */
export function recordWorkingSet(turn: Turn, run: SandboxRun, records: WakeRecords): void {
  const { recordPath } = records;
  if (recordPath === undefined) return;
  const recorded = turn.later(async ({ host, run: current }) => {
    await yieldToOthers();
    if (current === run && writeUsed(run, recordPath)) await host.workingSets.share(records);
  });
  void ignoreFailure("the failure is in the log of the queue", recorded);
}

/** @returns false where the VMM is given its memory by a pager, which keeps count itself. */
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
