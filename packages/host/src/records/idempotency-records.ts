/** What requests with an `Idempotency-Key` made, by caller and key. */
import type { ErrorBody } from "@torpor/std";
import type { Selectable } from "kysely";
import type { Database, IdempotencyKeyTable } from "./database.ts";

/** Of one thing that was asked for: its id, or why there is none. */
export type Made = string | ErrorBody;

/** Which request a key was sent with. */
export interface KeyedRequest {
  /** Id of the caller's credentials; empty for the owner of the Unix socket. */
  readonly caller: string;
  readonly key: string;
  /** Hex, of what the request asks for. */
  readonly requestSha256: string;
}

export interface IdempotencyRecord extends KeyedRequest {
  /** Of what is to be made, in the order of the answer. */
  readonly ids: readonly string[];
  /** As long as `ids`; null until it is known. */
  readonly made: readonly Made[] | null;
  readonly createdAtMs: number;
}

export class IdempotencyRecords {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Those of which it is not known yet what was made. */
  async unsettled(): Promise<readonly IdempotencyRecord[]> {
    const rows = await this.#database
      .selectFrom("idempotency_keys")
      .selectAll()
      .where("made", "is", null)
      .execute();
    return rows.map(fromRow);
  }

  /** One of `sinceMs` or later. */
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

  async save(record: IdempotencyRecord): Promise<void> {
    const { caller, idempotency_key, ...rest } = toRow(record);
    await this.#database
      .insertInto("idempotency_keys")
      .values({ caller, idempotency_key, ...rest })
      .onConflict((conflict) => conflict.columns(["caller", "idempotency_key"]).doUpdateSet(rest))
      .execute();
  }

  async remove({ caller, key }: KeyedRequest): Promise<void> {
    await this.#database
      .deleteFrom("idempotency_keys")
      .where("caller", "=", caller)
      .where("idempotency_key", "=", key)
      .execute();
  }

  /** Removes those of before `sinceMs`, and the oldest beyond `countMax`. */
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

/** The columns hold what `toRow` wrote; the database is the daemon's own. */
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
