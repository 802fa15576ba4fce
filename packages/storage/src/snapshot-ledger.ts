/**
 * What published snapshots stand upon, where it can be asked from both ends without reading manifests. The
 * daemon has it in its database. It may name more than there is, and never less.
 */

/** That a snapshot stands upon a layer: the id of a disk layer, or of the snapshot whose folder holds it. */
export interface LayerUse {
  readonly snapshotId: string;
  readonly layerId: string;
}

export interface SnapshotLedger {
  /** All or none; to be repeated without harm. */
  add(uses: readonly LayerUse[]): Promise<void>;
  /** Ids of all snapshots that are noted. */
  snapshotIds(): Promise<readonly string[]>;
  /** Ids of what these snapshots stand upon. */
  layersOf(snapshotIds: readonly string[]): Promise<readonly string[]>;
  /**
   * Who stands upon these layers, ordered by layer, then by snapshot, one page at a time.
   * @param after The last use of the page before; without a snapshot all uses of that layer are passed.
   * @returns a page; one that is empty ends the list
   */
  usersOf(
    layerIds: readonly string[],
    after: { readonly layerId: string; readonly snapshotId?: string } | undefined,
  ): Promise<readonly LayerUse[]>;
  remove(snapshotIds: readonly string[]): Promise<void>;
}
