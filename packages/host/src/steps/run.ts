/** One run of a sandbox's VM: what exists between a restore and the end of the process. */
import { GuestLink } from "@torpor/guest";
import { type GuestNetwork, reachNetwork } from "@torpor/network";
import { guestAddressing } from "@torpor/protocol";
import type { PagerProcess } from "@torpor/pager";
import type { Deadline } from "@torpor/std";
import type { Vm } from "@torpor/vmm";
import { Traffic } from "../edge/traffic.ts";
import type { HostContext } from "../host-context.ts";
import type { RunningVm } from "../lifecycle/state.ts";

/** A running VM, with everything that the daemon holds for it. */
export interface SandboxRun {
  readonly generation: number;
  readonly vm: Vm;
  readonly network: GuestNetwork;
  readonly link: GuestLink;
  /** Clients' requests to the guest. */
  readonly traffic: Traffic;
  /** The pager that serves the VM's memory; undefined if the VM has none. */
  readonly pager?: PagerProcess | undefined;
  /**
   * Hash of fresh bytes of the guest's generators at its wake; undefined if the run was adopted.
   */
  readonly randomHash?: string | undefined;
  /**
   * Pages of the working set that this wake started from. Undefined if none, or if the run was
   * adopted.
   */
  readonly workingSetPages?: number | undefined;
  /** Whether the VMM holds the VM because the host's disk failed a write; stall.ts updates it. */
  isStalled?: boolean;
}

/**
 * Adopts the run that an earlier daemon started. Its network can reach nothing yet.
 * @throws vmm.exited when the VM is gone
 */
export async function adoptRun(
  { driver, outside, pagers }: Pick<HostContext, "driver" | "outside" | "pagers">,
  state: RunningVm,
  { generation, hostKey }: Pick<SandboxRun, "generation"> & { readonly hostKey: string },
  deadline: Deadline,
): Promise<SandboxRun> {
  const vm = await driver.adopt(state.vm, deadline);
  const network = reachNetwork(state.network, state.vm.pid, guestAddressing, outside);
  const link = new GuestLink({ dial: (port) => network.dial(port), hostKey });
  const pager = pagers.find(vm.handle.runFolder);
  return { generation, vm, network, link, pager, traffic: new Traffic(link) };
}

/** Ends everything of a run: connections first, so that nothing waits on a guest that is gone. */
export async function endRun(run: SandboxRun, deadline: Deadline): Promise<void> {
  run.traffic[Symbol.dispose]();
  run.link[Symbol.dispose]();
  try {
    await run.vm.end(deadline);
  } finally {
    run.network[Symbol.dispose]();
  }
}
