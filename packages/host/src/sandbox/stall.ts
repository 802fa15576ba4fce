/**
 * VMs that stand still although their sandbox is running: QEMU holds a VM when its disk meets a
 * full host disk, and the undo of a failed save may not have reached the guest.
 */
import { Deadline } from "@torpor/std";
import type { SandboxRun } from "../steps/run.ts";
import type { Turn } from "./writer.ts";

/** Budget for letting a VM continue: the guest answers a cancel once its hooks have run. */
export const goOnBudgetMs = 20_000;

/** Why a stalled VM stands still and what to do about it, for `torpor info` and the log. */
export const stallReason =
  "the host's disk is full or failed a write; free space there, and it goes on within seconds";

/**
 * Releases the vCPUs and thaws the guest; neither affects a VM that runs normally. Logs a failure.
 */
export async function goOnIfHeld({ log }: Turn, run: SandboxRun): Promise<void> {
  const deadline = Deadline.after(goOnBudgetMs, "letting a VM go on");
  try {
    await run.vm.releaseVcpus(deadline);
    run.isStalled = false; // if it stalls again, the next check finds out
    await run.link.cancel(deadline);
  } catch (cause) {
    log.warn("a running VM does not answer", { cause });
  }
}

/** Lets a VM continue that its VMM holds for want of disk space, once there may be room again. */
export async function endStall({ run, log }: Turn): Promise<void> {
  if (run === undefined) return;
  const deadline = Deadline.after(goOnBudgetMs, "looking after a stalled VM");
  const wasStalled = run.isStalled === true;
  run.isStalled = await run.vm.isStalled(deadline);
  if (!run.isStalled) return;
  if (!wasStalled) log.warn(`the VM stands still: ${stallReason}`);
  await run.vm.releaseVcpus(deadline);
}
