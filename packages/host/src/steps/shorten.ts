/**
 * How the disk of a running VM is rebased onto compacted layers:
 *
 *   1. replace disk layers  the VMM opens the new layers below those that the VM has added since,
 *                           and closes those it no longer needs      undo: close what was opened
 *
 * A failure leaves the VM on its old layers or on the new ones, which have the same content. A
 * pause that is requested in the meantime waits no longer than the budget.
 */
import type { Deadline, Step } from "@torpor/std";
import type { SnapshotStore } from "@torpor/storage";
import type { DiskLayer, Vm } from "@torpor/vmm";

/** Which disk layers to replace, by id; see `LayerReplacement`. */
export interface Shortening {
  readonly above: string;
  readonly below: readonly string[];
  readonly replaced: readonly string[];
}

/** Input of the step. */
export interface ShortenContext extends Shortening {
  readonly vm: Vm;
  readonly store: SnapshotStore;
}

/** The one step of a disk rebase. */
export const shortenSteps: readonly Step<ShortenContext>[] = [
  { name: "replace disk layers", budgetMs: 5_000, run: replaceDiskLayers },
];

async function replaceDiskLayers(
  { vm, store, above, below, replaced }: ShortenContext,
  deadline: Deadline,
): Promise<void> {
  const layerOf = (id: string): DiskLayer => ({ path: store.diskPath(id), format: "qcow2" });
  await vm.replaceDiskLayers(
    { above: layerOf(above), below: below.map(layerOf), replaced: replaced.map(layerOf) },
    deadline,
  );
}
