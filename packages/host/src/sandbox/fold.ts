/** Moves a sandbox onto an equal of its snapshot, in fewer layers, that upkeep.ts has published. */
import type { SnapshotManifest } from "@torpor/storage";
import { baseOf } from "./save.ts";
import type { Turn } from "./writer.ts";

/** Returns the equal of a snapshot in fewer layers; undefined if there is none. */
export type EqualOf = (snapshot: SnapshotManifest) => Promise<SnapshotManifest | undefined>;

/**
 * Makes the equal of the newest snapshot, if there is one, the sandbox's newest snapshot.
 * @param equalOf Called within the turn, so that no save happens between the question and the
 *   answer.
 */
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
