/**
 * The states of a sandbox and every legal move between them. `decide.ts` says which requests a state
 * allows; the files of `sandbox/` make the moves, each verb its own, in turns of the single writer.
 *
 *                 checkpointing
 *                      ▲
 *                      ▼
 *     creating ──► running ◄──► pausing ──► paused ◄──► resuming ──► running
 *                     │            │                        ▲
 *                     └────────────┴──► failed ◄────────────┘        (any) ──► removing ──► gone
 *
 * Resting states are running, paused and failed. The others belong to one operation of the sandbox's
 * single writer and end with it; a daemon that finds one at its start settles it (sandbox/settle.ts).
 */
import type { NetworkHandle } from "@torpor/network";
import { assert } from "@torpor/std";
import type { VmHandle } from "@torpor/vmm";

/** What exists while a VM runs, as plain data that another daemon can go by. */
export interface RunningVm {
  readonly vm: VmHandle;
  readonly network: NetworkHandle;
  /** Disk layers that the VM may have open, which outlive a fold of them for as long. */
  readonly openDisks: readonly string[];
  /** The snapshot whose memory the VM's pager serves, and is compared with when the VM is saved. */
  readonly pagedFrom?: string;
  /** Of the content of the template that the VM has mapped; not known of VMs of earlier versions. */
  readonly templateSha256?: string;
}

export type SandboxState =
  | { readonly kind: "creating" }
  | ({ readonly kind: "running" } & RunningVm)
  /** `snapshotId` is what will be published, so that a later daemon can tell whether it was. */
  | ({ readonly kind: "pausing"; readonly snapshotId: string } & RunningVm)
  | ({ readonly kind: "checkpointing"; readonly snapshotId: string } & RunningVm)
  | { readonly kind: "paused" }
  | { readonly kind: "resuming" }
  | { readonly kind: "removing" }
  /** `lastLines`: what console and VMM said last. */
  | { readonly kind: "failed"; readonly reason: string; readonly lastLines: readonly string[] };

export type StateKind = SandboxState["kind"];

export function runningVmOf(state: RunningVm): RunningVm {
  const { vm, network, openDisks, pagedFrom, templateSha256 } = state;
  return {
    vm,
    network,
    openDisks,
    ...(pagedFrom === undefined ? {} : { pagedFrom }),
    ...(templateSha256 === undefined ? {} : { templateSha256 }),
  };
}

/** What causes each move. Read by `enter`, by tests and by whoever wants to know. */
export const moves: Readonly<Record<StateKind, Partial<Record<StateKind, string>>>> = {
  creating: { running: "the guest is initialised", removing: "not finished, or asked to remove" },
  running: {
    pausing: "asked to pause",
    checkpointing: "asked for a snapshot or a fork",
    failed: "the VM ended by itself",
    removing: "asked to remove",
  },
  checkpointing: {
    running: "the snapshot is published, or was given up",
    failed: "the VM ended meanwhile",
    removing: "asked to remove",
  },
  pausing: {
    paused: "the snapshot is published",
    running: "the pause failed and was undone",
    failed: "the VM ended during the pause",
    removing: "asked to remove",
  },
  paused: { resuming: "asked to resume", removing: "asked to remove" },
  resuming: {
    running: "the guest is initialised",
    paused: "the resume failed and was undone",
    failed: "as above, of one that had failed before",
    removing: "asked to remove",
  },
  failed: { resuming: "asked to go back to the last snapshot", removing: "asked to remove" },
  removing: {},
};

/** Checks that the move is legal; the only way from one state to another. */
export function enter(from: SandboxState, to: SandboxState): SandboxState {
  assert(to.kind in moves[from.kind], `no move from ${from.kind} to ${to.kind}`);
  return to;
}
