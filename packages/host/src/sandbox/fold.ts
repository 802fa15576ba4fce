/** A sandbox moves over to the equal of its snapshot, in fewer layers, that upkeep.ts has published. */
import type { SnapshotManifest } from "@torpor/storage";
import { baseOf } from "./save.ts";
import type { Turn } from "./writer.ts";

/** The equal of a snapshot, in fewer layers; undefined where there is none. */
export type EqualOf = (snapshot: SnapshotManifest) => Promise<SnapshotManifest | undefined>;

/** @param equalOf Asked within the turn, so that no save comes between the question and the answer. */
export async function takeFold(turn: Turn, equalOf: EqualOf): Promise<void> {
  const before = turn.isRemoved ? undefined : await baseOf(turn);
  const after = before === undefined ? undefined : await equalOf(before);
  if (before === undefined || after === undefined) return;
  const above = turn.record.diskLayers.slice(before.disk.length);
  await turn.save({
    snapshotId: after.snapshotId,
    diskLayers: [...after.disk.map(({ layerId }) => layerId), ...above],
  });
  if (turn.run !== undefined) turn.base = after;
  turn.log.info("layers were folded", {
    memoryLayers: after.memory.kind === "layers" ? after.memory.layers.length : 0,
    diskLayers: after.disk.length,
  });
}
