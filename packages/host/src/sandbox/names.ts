/** The snapshots and disk layers that a sandbox's record refers to, and so keeps. */
import type { SandboxRecord } from "../records/sandbox-records.ts";

/** The fields of a record that refer to snapshots or disk layers. */
export type NamingRecord = Pick<
  SandboxRecord,
  "snapshotId" | "previousSnapshotId" | "diskLayers" | "state"
>;

/** Ids of the snapshots and disk layers that the record names, without those that they build on. */
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
    // An interrupted save may have published it: the next daemon finds out.
    "snapshotId" in state ? state.snapshotId : null,
  ];
  const openDisks = "openDisks" in state ? state.openDisks : [];
  return [...snapshots.filter((id) => id !== null), ...diskLayers, ...openDisks];
}
