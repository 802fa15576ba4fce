/** Which layers published snapshots are built on, as rows: see storage/snapshot-ledger.ts. */
import type { LayerUse, SnapshotLedger } from "@torpor/storage";
import type { Database } from "./database.ts";

/**
 * LIMIT: rows per answer. Where many snapshots share a layer, the first few nearly always decide.
 */
const pageRows = 128;

/** The snapshot ledger in the daemon's database. Every method rejects if the database fails. */
export class SnapshotLayers implements SnapshotLedger {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async add(uses: readonly LayerUse[]): Promise<void> {
    if (uses.length === 0) return;
    await this.#database
      .insertInto("snapshot_layers")
      .values(uses.map((use) => ({ layer_id: use.layerId, snapshot_id: use.snapshotId })))
      .onConflict((conflict) => conflict.doNothing())
      .execute();
  }

  async snapshotIds(): Promise<readonly string[]> {
    const rows = await this.#database
      .selectFrom("snapshot_layers")
      .select("snapshot_id")
      .distinct()
      .execute();
    return rows.map((row) => row.snapshot_id);
  }

  async layersOf(snapshotIds: readonly string[]): Promise<readonly string[]> {
    const rows = await this.#database
      .selectFrom("snapshot_layers")
      .select("layer_id")
      .distinct()
      .where("snapshot_id", "in", snapshotIds)
      .execute();
    return rows.map((row) => row.layer_id);
  }

  async usersOf(
    layerIds: readonly string[],
    after: { readonly layerId: string; readonly snapshotId?: string } | undefined,
  ): Promise<readonly LayerUse[]> {
    const rest = after === undefined ? layerIds : layerIds.filter((id) => id > after.layerId);
    const sameLayer =
      after?.snapshotId === undefined ? [] : await this.#page([after.layerId], after.snapshotId);
    if (sameLayer.length > 0 || rest.length === 0) return sameLayer;
    return await this.#page(rest, "");
  }

  async remove(snapshotIds: readonly string[]): Promise<void> {
    await this.#database
      .deleteFrom("snapshot_layers")
      .where("snapshot_id", "in", snapshotIds)
      .execute();
  }

  /** The next rows of these layers whose snapshot id is greater than `snapshotId`. */
  async #page(layerIds: readonly string[], snapshotId: string): Promise<readonly LayerUse[]> {
    const rows = await this.#database
      .selectFrom("snapshot_layers")
      .selectAll()
      .where("layer_id", "in", layerIds)
      .where("snapshot_id", ">", snapshotId)
      .orderBy("layer_id")
      .orderBy("snapshot_id")
      .limit(pageRows)
      .execute();
    return rows.map((row) => ({ layerId: row.layer_id, snapshotId: row.snapshot_id }));
  }
}
