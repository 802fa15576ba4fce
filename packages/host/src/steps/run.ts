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

export interface SandboxRun {
  readonly generation: number;
  readonly vm: Vm;
  readonly network: GuestNetwork;
  readonly link: GuestLink;
  /** Requests of clients to the guest. */
  readonly traffic: Traffic;
  /** Of a VM whose memory comes from one. */
  readonly pager?: PagerProcess | undefined;
  /** Of fresh bytes of the guest's generators, as it woke; not known of a run that was adopted. */
  readonly randomHash?: string | undefined;
  /** Of the record that its wake began with, if there was one; not known of a run that was adopted. */
  readonly workingSetPages?: number | undefined;
  /** Whether its VMM holds it because the host's disk failed a write; kept by stall.ts. */
  isStalled?: boolean;
}

/**
 * Takes over the run that an earlier daemon started, with no way out yet.
 * @throws vmm.exited when it is gone
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

/** Ends everything of a run: connections first, so that nobody waits on a guest that is gone. */
export async function endRun(run: SandboxRun, deadline: Deadline): Promise<void> {
  run.traffic[Symbol.dispose]();
  run.link[Symbol.dispose]();
  try {
    await run.vm.end(deadline);
  } finally {
    run.network[Symbol.dispose]();
  }
}
