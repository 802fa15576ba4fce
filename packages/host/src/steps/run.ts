/** One run of a sandbox's VM: what exists between a restore and the end of the process. */
import type { GuestLink } from "@torpor/guest";
import type { GuestNetwork } from "@torpor/network";
import { type Deadline, ignoreFailure } from "@torpor/std";
import type { Vm } from "@torpor/vmm";

export interface SandboxRun {
  readonly generation: number;
  readonly vm: Vm;
  readonly network: GuestNetwork;
  readonly link: GuestLink;
}

/** Ends everything of a run: connections first, so that nobody waits on a guest that is gone. */
export async function endRun(run: SandboxRun, deadline: Deadline): Promise<void> {
  run.link[Symbol.dispose]();
  try {
    await run.vm.end(deadline);
  } finally {
    run.network[Symbol.dispose]();
  }
}

/** Settles once the VM has ended by itself or by somebody's hand. */
export async function whenEnded(run: SandboxRun): Promise<void> {
  await ignoreFailure("the exit itself is the news", run.vm.exited);
}
