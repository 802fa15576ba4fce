/**
 * The layers that published snapshots are built on, which can be queried from both ends without
 * reading manifests. The daemon keeps it in its database. It may list more than exists, and never
 * less.
 */

/**
 * Says that a snapshot is built on a layer: the id of a disk layer, or of the snapshot whose folder
 * holds it.
 */
export interface LayerUse {
  readonly snapshotId: string;
  readonly layerId: string;
}

/** The queries and changes that the snapshot store needs; ids that do not exist do no harm. */
export interface SnapshotLedger {
  /** Adds all or none; repeating it does no harm. */
  add(uses: readonly LayerUse[]): Promise<void>;
  /** Ids of all snapshots in the ledger. */
  snapshotIds(): Promise<readonly string[]>;
  /** Ids of the layers that these snapshots are built on. */
  layersOf(snapshotIds: readonly string[]): Promise<readonly string[]>;
  /**
   * Lists which snapshots are built on these layers, ordered by layer, then by snapshot, one page
   * at a time.
   * @param after The last use of the page before; without a snapshot, all uses of that layer are
   * skipped.
   * @returns a page; an empty one ends the list
   */
  usersOf(
    layerIds: readonly string[],
    after: { readonly layerId: string; readonly snapshotId?: string } | undefined,
  ): Promise<readonly LayerUse[]>;
  remove(snapshotIds: readonly string[]): Promise<void>;
}
