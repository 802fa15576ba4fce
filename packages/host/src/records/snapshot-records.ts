/** Snapshots that a user asked for: what `create` takes beside the templates, by id or by name. */
import type { Selectable } from "kysely";
import type { Database, SnapshotTable } from "./database.ts";

export interface SnapshotRecord {
  readonly id: string;
  /** Null for one without a name, or whose name another has taken. */
  readonly name: string | null;
  /** The sandbox it was taken of, which may be gone. */
  readonly sandboxId: string;
  readonly templateId: string;
  readonly createdAtMs: number;
  /** How many spare sandboxes are kept of it. */
  readonly pool: number;
}

export class SnapshotRecords {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async all(): Promise<readonly SnapshotRecord[]> {
    const rows = await this.#database
      .selectFrom("snapshots")
      .selectAll()
      .orderBy("created_at_ms")
      .execute();
    return rows.map(fromRow);
  }

  /** Adds it; a name it takes from another leaves that one without. */
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

  /** One whose name, if it has any, is nobody's; in a transaction of the caller's. */
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

  async setPool(id: string, pool: number): Promise<void> {
    await this.#database.updateTable("snapshots").set({ pool }).where("id", "=", id).execute();
  }

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
