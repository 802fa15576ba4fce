/**
 * VMs that stand still although their sandbox runs: QEMU holds one whose disk met a full host disk, and
 * a save that was undone may not have got through to the guest.
 */
import { Deadline } from "@torpor/std";
import type { SandboxRun } from "../steps/run.ts";
import type { Turn } from "./writer.ts";

/** The guest answers a cancel once its hooks have run. */
export const goOnBudgetMs = 20_000;

/** What to do about it, too. */
export const stallReason =
  "the host's disk is full or failed a write; free space there, and it goes on within seconds";

/** Both calls do nothing to one that goes. */
export async function goOnIfHeld({ log }: Turn, run: SandboxRun): Promise<void> {
  const deadline = Deadline.after(goOnBudgetMs, "letting a VM go on");
  try {
    await run.vm.releaseVcpus(deadline);
    run.isStalled = false; // if it is again, the next look finds out
    await run.link.cancel(deadline);
  } catch (cause) {
    log.warn("a running VM does not answer", { cause });
  }
}

/** Lets a VM go on that its VMM holds for want of disk space, once there may be room again. */
export async function endStall({ run, log }: Turn): Promise<void> {
  if (run === undefined) return;
  const deadline = Deadline.after(goOnBudgetMs, "looking after a stalled VM");
  const wasStalled = run.isStalled === true;
  run.isStalled = await run.vm.isStalled(deadline);
  if (!run.isStalled) return;
  if (!wasStalled) log.warn(`the VM stands still: ${stallReason}`);
  await run.vm.releaseVcpus(deadline);
}
