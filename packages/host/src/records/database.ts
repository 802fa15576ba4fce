/**
 * The daemon's database: SQLite in Node, through Kysely.
 *
 * Everything above this file uses Kysely's query builder and types that PostgreSQL also has (text,
 * integer, bigint), so that a second dialect needs no second set of queries. The journal is a
 * write-ahead log, flushed with every commit: once the daemon has answered a caller, the change is
 * on disk.
 */
import { closeSync, openSync } from "node:fs";
import { DatabaseSync, type SQLInputValue } from "node:sqlite";
import { TorporError } from "@torpor/std";
import { Kysely, SqliteDialect, type SqliteDatabase } from "kysely";
import { Migrator } from "kysely/migration";
import { type Sealing, migrationsWith } from "./migrations.ts";

const inMemory = ":memory:";
/** Value of the database's `user_version` once no page holds a secret in plain text. */
const pagesWithoutSecrets = 1;

/** One row per sandbox. */
export interface SandboxTable {
  id: string;
  template_id: string;
  template_name: string;
  /** Generation of the newest VM run; each new run increments it. */
  generation: number;
  /** The newest published snapshot and the one before it, or null. */
  snapshot_id: string | null;
  previous_snapshot_id: string | null;
  /** JSON of `SandboxState`. */
  state: string;
  /** JSON array of the ids of disk layers above the template's disk, oldest first. */
  disk_layers: string;
  /** JSON of `Lifetime`. */
  lifetime: string;
  /** Sealed JSON of `SandboxSecrets`. */
  secrets: string;
  /** JSON map of strings. */
  metadata: string;
  created_at_ms: number;
  started_at_ms: number;
  /** JSON of `NetworkRequest`, or null if the caller requested nothing. */
  network: string | null;
  /** JSON of `AutoResume`, or null if no traffic wakes the sandbox. */
  auto_resume: string | null;
}

/** Snapshots that a user requested, from which sandboxes are created. */
export interface SnapshotTable {
  id: string;
  /** Null for a snapshot without a name, or whose name another snapshot has taken. */
  name: string | null;
  sandbox_id: string;
  template_id: string;
  created_at_ms: number;
  /** How many spare sandboxes are kept ready from it. */
  pool: number;
}

/**
 * Which layers each snapshot is built on, one row per pair, for every snapshot whatever it was made
 * for.
 */
export interface SnapshotLayerTable {
  layer_id: string;
  snapshot_id: string;
}

/** Names with a tag. Names without one are resolved by the template store and the snapshots. */
export interface TemplateTagTable {
  name: string;
  tag: string;
  /** Id of a template or a snapshot. */
  target_id: string;
  created_at_ms: number;
}

/** API keys and access tokens. */
export interface ApiKeyTable {
  id: string;
  /** A `KeyKind`. */
  kind: string;
  name: string;
  /** SHA-256, hex, of the key's bytes. The key itself is not stored. */
  key_sha256: string;
  /** First characters, to tell keys apart in a list. */
  prefix: string;
  /** Last characters; null for keys from before they were stored. */
  suffix: string | null;
  created_at_ms: number;
}

/** Requests with an `Idempotency-Key`, and the ids that they made or are about to make. */
export interface IdempotencyKeyTable {
  /** Id of the caller's credentials; empty for the owner of the Unix socket. */
  caller: string;
  idempotency_key: string;
  /** SHA-256, hex, of the request's content. */
  request_sha256: string;
  /** Ids to create, as a JSON array, in response order. */
  ids: string;
  /** JSON array of `Made`, as long as `ids`; null until the result is known. */
  made: string | null;
  created_at_ms: number;
}

/** Every table, by its name in SQL. */
export interface Tables {
  sandboxes: SandboxTable;
  snapshots: SnapshotTable;
  snapshot_layers: SnapshotLayerTable;
  template_tags: TemplateTagTable;
  api_keys: ApiKeyTable;
  idempotency_keys: IdempotencyKeyTable;
}

/** The database, or a transaction in it. */
export type Database = Kysely<Tables>;

/**
 * Opens the database file, which it creates with mode 0600 if there is none, and migrates its
 * schema.
 * @param path `:memory:` opens a database without a file.
 * @throws storage.failed when the file is damaged, or was written by a version that this one does
 *   not know
 */
export async function openDatabase(path: string, sealing: Sealing): Promise<Database> {
  // ORDER: SQLite gives its log and shared memory the mode of the database.
  if (path !== inMemory) closeSync(openSync(path, "a", 0o600));
  const sqlite = new DatabaseSync(path);
  sqlite.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000");
  sqlite.exec("PRAGMA secure_delete = ON");
  const database = new Kysely<Tables>({
    dialect: new SqliteDialect({ database: adapt(sqlite) }),
  });
  const migrator = new Migrator({
    db: database,
    provider: { getMigrations: () => Promise.resolve(migrationsWith(sealing)) },
  });
  const { error } = await migrator.migrateToLatest();
  if (error === undefined) {
    forgetPlainPages(sqlite);
    return database;
  }
  await database.destroy();
  if (TorporError.is(error)) throw error;
  throw new TorporError("storage.failed", `${path} cannot be brought up to date`, {
    cause: error,
    effect: "none",
    advice: "Use the version of Torpor that wrote it, or move the state folder away.",
  });
}

/**
 * Overwrites the pages and the log from before secrets were sealed, once per database. If another
 * process is using the database, the next start does it.
 */
function forgetPlainPages(sqlite: DatabaseSync): void {
  if (pragma(sqlite, "user_version") >= pagesWithoutSecrets) return;
  sqlite.exec("VACUUM");
  const isBusy = pragma(sqlite, "wal_checkpoint(TRUNCATE)") !== 0;
  if (!isBusy) sqlite.exec(`PRAGMA user_version = ${pagesWithoutSecrets}`);
}

/** The first column of the pragma's result. */
function pragma(sqlite: DatabaseSync, text: string): number {
  return Number(Object.values(sqlite.prepare(`PRAGMA ${text}`).get() ?? {})[0]);
}

/** Wraps Node's SQLite in the small interface that Kysely's dialect needs. */
function adapt(sqlite: DatabaseSync): SqliteDatabase {
  return {
    close: () => sqlite.close(),
    prepare: (sql) => {
      const statement = sqlite.prepare(sql);
      const values = (parameters: readonly unknown[]): SQLInputValue[] =>
        parameters as SQLInputValue[];
      return {
        reader: statement.columns().length > 0,
        all: (parameters) => statement.all(...values(parameters)),
        run: (parameters) => statement.run(...values(parameters)),
        iterate: (parameters) => statement.iterate(...values(parameters)),
      };
    },
  };
}
