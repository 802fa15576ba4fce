/**
 * The states of a sandbox and every legal move between them. `decide.ts` says which requests a state
 * allows. Each file of `sandbox/` makes the moves of its verb, in a turn of the single writer.
 *
 *                 checkpointing
 *                      ▲
 *                      ▼
 *     creating ──► running ◄──► pausing ──► paused ◄──► resuming ──► running
 *                     │            │                        ▲
 *                     └────────────┴──► failed ◄────────────┘        (any) ──► removing ──► gone
 *
 * Resting states are running, paused and failed. Each other state belongs to one operation of the
 * single writer and ends with it. A daemon that starts settles any that it finds (sandbox/settle.ts).
 *
 * A checkpoint or resume that fails, and a pause that fails before its snapshot is published, is undone:
 * the sandbox returns to the state it came from. The drawing leaves out that a VM may also end while
 * checkpointing, which makes the sandbox failed.
 */
import type { NetworkHandle } from "@torpor/network";
import { assert } from "@torpor/std";
import type { VmHandle } from "@torpor/vmm";

/** A running VM and its resources, as plain data from which another daemon can adopt it. */
export interface RunningVm {
  readonly vm: VmHandle;
  readonly network: NetworkHandle;
  /**
   * Ids of disk layers that the VM may have open. They are kept while it does, even after
   * compaction.
   */
  readonly openDisks: readonly string[];
  /** The snapshot whose memory the VM's pager serves. A save compares the VM's memory with it. */
  readonly pagedFrom?: string;
  /**
   * SHA-256 of the content of the template that the VM has mapped; absent for VMs of earlier
   * versions.
   */
  readonly templateSha256?: string;
}

/** The state of a sandbox, as its record stores it. */
export type SandboxState =
  | { readonly kind: "creating" }
  | ({ readonly kind: "running" } & RunningVm)
  /** `snapshotId` is the snapshot being written: a later daemon checks whether it was published. */
  | ({ readonly kind: "pausing"; readonly snapshotId: string } & RunningVm)
  | ({ readonly kind: "checkpointing"; readonly snapshotId: string } & RunningVm)
  | { readonly kind: "paused" }
  | { readonly kind: "resuming" }
  | { readonly kind: "removing" }
  /** `lastLines`: the last lines of the console and of the VMM's log. */
  | { readonly kind: "failed"; readonly reason: string; readonly lastLines: readonly string[] };

/** The name of a state. */
export type StateKind = SandboxState["kind"];

/** The fields of a state that describe its VM, without the state's own. */
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

/**
 * The legal moves, from state to state, with the cause of each. `enter` and the tests read this
 * table.
 */
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

/**
 * Returns `to` after asserting that the move is legal. Every move between states goes through it.
 */
export function enter(from: SandboxState, to: SandboxState): SandboxState {
  assert(to.kind in moves[from.kind], `no move from ${from.kind} to ${to.kind}`);
  return to;
}
