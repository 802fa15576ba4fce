/**
 * How the disk of a running VM comes to stand upon folded layers:
 *
 *   1. replace disk layers  the new ones are opened and put below those that the VM has added since;
 *                           those that it needs no more are closed             undo: close what was opened
 *
 * A failure leaves the VM upon the layers it had, or upon the new ones, which say the same. A pause that is
 * asked for meanwhile waits no longer than the budget.
 */
import type { Deadline, Step } from "@torpor/std";
import type { SnapshotStore } from "@torpor/storage";
import type { DiskLayer, Vm } from "@torpor/vmm";

/** Ids of disk layers; see `LayerReplacement`. */
export interface Shortening {
  readonly above: string;
  readonly below: readonly string[];
  readonly replaced: readonly string[];
}

export interface ShortenContext extends Shortening {
  readonly vm: Vm;
  readonly store: SnapshotStore;
}

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
