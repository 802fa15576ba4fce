/**
 * Snapshots that a user requested: `create` accepts them, by id or name, as it accepts templates.
 */
import type { Selectable } from "kysely";
import type { Database, SnapshotTable } from "./database.ts";

/** A snapshot that a user requested. */
export interface SnapshotRecord {
  readonly id: string;
  /** Null for a snapshot without a name, or whose name another snapshot has taken. */
  readonly name: string | null;
  /** The sandbox that it was taken of, which may be gone. */
  readonly sandboxId: string;
  readonly templateId: string;
  readonly createdAtMs: number;
  /** How many spare sandboxes are kept ready from it. */
  readonly pool: number;
}

/** Reads and writes the table of snapshots. Every method rejects if the database fails. */
export class SnapshotRecords {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Every record, oldest first. */
  async all(): Promise<readonly SnapshotRecord[]> {
    const rows = await this.#database
      .selectFrom("snapshots")
      .selectAll()
      .orderBy("created_at_ms")
      .execute();
    return rows.map(fromRow);
  }

  /** Adds the record. If another snapshot has its name, that one loses its name and its spares. */
  async add(record: SnapshotRecord): Promise<void> {
    await this.#database.transaction().execute(async (transaction) => {
      if (record.name !== null) {
        await transaction
          .updateTable("snapshots")
          .set({ name: null, pool: 0 })
          .where("name", "=", record.name)
          .execute();
      }
      await this.insert(record, transaction);
    });
  }

  /** Adds the record within the caller's transaction. No other snapshot may have its name. */
  async insert(record: SnapshotRecord, transaction: Database): Promise<void> {
    await transaction
      .insertInto("snapshots")
      .values({
        id: record.id,
        name: record.name,
        sandbox_id: record.sandboxId,
        template_id: record.templateId,
        created_at_ms: record.createdAtMs,
        pool: record.pool,
      })
      .execute();
  }

  /** Sets how many spare sandboxes are kept ready from a snapshot. */
  async setPool(id: string, pool: number): Promise<void> {
    await this.#database.updateTable("snapshots").set({ pool }).where("id", "=", id).execute();
  }

  /** Deletes the record, if there is one. */
  async remove(id: string): Promise<void> {
    await this.#database.deleteFrom("snapshots").where("id", "=", id).execute();
  }
}

function fromRow(row: Selectable<SnapshotTable>): SnapshotRecord {
  return {
    id: row.id,
    name: row.name,
    sandboxId: row.sandbox_id,
    templateId: row.template_id,
    createdAtMs: row.created_at_ms,
    pool: row.pool,
  };
}
