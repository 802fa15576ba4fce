/** A sandbox moves over to the equal of its snapshot, in fewer layers, that upkeep.ts has published. */
import type { SnapshotManifest } from "@torpor/storage";
import type { Turn } from "./writer.ts";

/** @returns false when it does not stand upon `before` any more; then nothing has changed */
export async function takeFold(
  turn: Turn,
  before: SnapshotManifest,
  after: SnapshotManifest,
): Promise<boolean> {
  if (turn.isRemoved || turn.record.snapshotId !== before.snapshotId) return false;
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
  return true;
}
