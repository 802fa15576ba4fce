/** Rows that say what requests with an `Idempotency-Key` made, by caller and key. */
import type { ErrorBody } from "@torpor/std";
import type { Selectable } from "kysely";
import type { Database, IdempotencyKeyTable } from "./database.ts";

/** The result for one requested thing: its id, or the error if it does not exist. */
export type Made = string | ErrorBody;

/** Identifies a request by its caller, its key and its content. */
export interface KeyedRequest {
  /** Id of the caller's credentials; empty for the owner of the Unix socket. */
  readonly caller: string;
  readonly key: string;
  /** SHA-256, hex, of the request's content. */
  readonly requestSha256: string;
}

/** One keyed request, and what it made. */
export interface IdempotencyRecord extends KeyedRequest {
  /** Ids to create, in response order. */
  readonly ids: readonly string[];
  /** As long as `ids`; null until the result is known. */
  readonly made: readonly Made[] | null;
  readonly createdAtMs: number;
}

/** Reads and writes the table of idempotency keys. Every method rejects if the database fails. */
export class IdempotencyRecords {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** The records whose result is not known yet. */
  async unsettled(): Promise<readonly IdempotencyRecord[]> {
    const rows = await this.#database
      .selectFrom("idempotency_keys")
      .selectAll()
      .where("made", "is", null)
      .execute();
    return rows.map(fromRow);
  }

  /** The record of this caller and key, if it was created at `sinceMs` or later. */
  async find(
    { caller, key }: KeyedRequest,
    sinceMs: number,
  ): Promise<IdempotencyRecord | undefined> {
    const row = await this.#database
      .selectFrom("idempotency_keys")
      .selectAll()
      .where("caller", "=", caller)
      .where("idempotency_key", "=", key)
      .where("created_at_ms", ">=", sinceMs)
      .executeTakeFirst();
    return row === undefined ? undefined : fromRow(row);
  }

  /** Inserts the record, or replaces the one of the same caller and key. */
  async save(record: IdempotencyRecord): Promise<void> {
    const { caller, idempotency_key, ...rest } = toRow(record);
    await this.#database
      .insertInto("idempotency_keys")
      .values({ caller, idempotency_key, ...rest })
      .onConflict((conflict) => conflict.columns(["caller", "idempotency_key"]).doUpdateSet(rest))
      .execute();
  }

  /** Deletes the record of this caller and key, if there is one. */
  async remove({ caller, key }: KeyedRequest): Promise<void> {
    await this.#database
      .deleteFrom("idempotency_keys")
      .where("caller", "=", caller)
      .where("idempotency_key", "=", key)
      .execute();
  }

  /** Deletes the records from before `sinceMs`, and the oldest beyond `countMax`. */
  async prune(sinceMs: number, countMax: number): Promise<void> {
    const oldestKept = await this.#database
      .selectFrom("idempotency_keys")
      .select("created_at_ms")
      .orderBy("created_at_ms", "desc")
      .offset(countMax - 1)
      .limit(1)
      .executeTakeFirst();
    await this.#database
      .deleteFrom("idempotency_keys")
      .where("created_at_ms", "<", Math.max(sinceMs, oldestKept?.created_at_ms ?? 0))
      .execute();
  }
}

function toRow(record: IdempotencyRecord): IdempotencyKeyTable {
  return {
    caller: record.caller,
    idempotency_key: record.key,
    request_sha256: record.requestSha256,
    ids: JSON.stringify(record.ids),
    made: record.made === null ? null : JSON.stringify(record.made),
    created_at_ms: record.createdAtMs,
  };
}

/**
 * Parses without checks: the columns hold what `toRow` wrote, and only the daemon writes its
 * database.
 */
function fromRow(row: Selectable<IdempotencyKeyTable>): IdempotencyRecord {
  return {
    caller: row.caller,
    key: row.idempotency_key,
    requestSha256: row.request_sha256,
    ids: JSON.parse(row.ids) as string[],
    made: row.made === null ? null : (JSON.parse(row.made) as Made[]),
    createdAtMs: row.created_at_ms,
  };
}
