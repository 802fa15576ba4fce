/** What a sandbox's record leads to, and so keeps. */
import type { SandboxRecord } from "../records/sandbox-records.ts";

export type NamingRecord = Pick<
  SandboxRecord,
  "snapshotId" | "previousSnapshotId" | "diskLayers" | "state"
>;

/** Ids of snapshots and disk layers; what those stand upon is not among them. */
export function namesOf({
  snapshotId,
  previousSnapshotId,
  diskLayers,
  state,
}: NamingRecord): readonly string[] {
  const snapshots = [
    snapshotId,
    previousSnapshotId,
    "pagedFrom" in state ? (state.pagedFrom ?? null) : null,
    // A save that was cut short may have published it: the next daemon finds out.
    "snapshotId" in state ? state.snapshotId : null,
  ];
  const openDisks = "openDisks" in state ? state.openDisks : [];
  return [...snapshots.filter((id) => id !== null), ...diskLayers, ...openDisks];
}
