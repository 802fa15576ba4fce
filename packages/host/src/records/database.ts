/**
 * The daemon's database: SQLite in Node, through Kysely.
 *
 * Everything above this file is written in Kysely's query builder and in types that PostgreSQL has as
 * well (text, integer, bigint), so that a second dialect needs no second set of queries. The journal
 * is a write-ahead log, flushed with every commit: what a caller was told is on disk.
 */
import { closeSync, openSync } from "node:fs";
import { DatabaseSync, type SQLInputValue } from "node:sqlite";
import { TorporError } from "@torpor/std";
import { Kysely, SqliteDialect, type SqliteDatabase } from "kysely";
import { Migrator } from "kysely/migration";
import { type Sealing, migrationsWith } from "./migrations.ts";

const inMemory = ":memory:";
/** The database's own mark, its `user_version`: no page holds a secret in plain any more. */
const pagesWithoutSecrets = 1;

export interface SandboxTable {
  id: string;
  template_id: string;
  template_name: string;
  /** Of the newest VM run; the next run has one more. */
  generation: number;
  /** The newest published snapshot and the one before it, or null. */
  snapshot_id: string | null;
  previous_snapshot_id: string | null;
  /** JSON of `SandboxState`. */
  state: string;
  /** Ids of disk layers above the template's disk, JSON array, oldest first. */
  disk_layers: string;
  /** JSON of `Lifetime`. */
  lifetime: string;
  /** Sealed JSON of `SandboxSecrets`. */
  secrets: string;
  /** JSON map of strings. */
  metadata: string;
  created_at_ms: number;
  started_at_ms: number;
  /** JSON of `NetworkRequest`, or null for one that asked for nothing. */
  network: string | null;
  /** JSON of `AutoResume`, or null when no traffic wakes it. */
  auto_resume: string | null;
}

/** Snapshots that a user asked for, from which sandboxes are made. */
export interface SnapshotTable {
  id: string;
  /** Null once another has taken the name. */
  name: string | null;
  sandbox_id: string;
  template_id: string;
  created_at_ms: number;
  /** Spare sandboxes that are kept of it. */
  pool: number;
}

/** That a snapshot stands upon a layer, one row each; of all snapshots, whoever they were made for. */
export interface SnapshotLayerTable {
  layer_id: string;
  snapshot_id: string;
}

/** What a name with a tag means; without a tag the template store and the snapshots know. */
export interface TemplateTagTable {
  name: string;
  tag: string;
  /** Of a template or a snapshot. */
  target_id: string;
  created_at_ms: number;
}

export interface ApiKeyTable {
  id: string;
  /** Which `KeyKind` it is of. */
  kind: string;
  name: string;
  /** SHA-256, hex, of the key's bytes; the key itself is not kept. */
  key_sha256: string;
  /** First characters, to tell keys apart in a list. */
  prefix: string;
  /** Last characters; null for keys of a time when they were not kept. */
  suffix: string | null;
  created_at_ms: number;
}

/** What requests with an `Idempotency-Key` made, or are about to make. */
export interface IdempotencyKeyTable {
  /** Id of the caller's credentials; empty for the owner of the Unix socket. */
  caller: string;
  idempotency_key: string;
  /** SHA-256, hex, of what the request asks for. */
  request_sha256: string;
  /** Of what is to be made, JSON array, in the order of the answer. */
  ids: string;
  /** JSON array of `Made`, as long as `ids`; null until it is known. */
  made: string | null;
  created_at_ms: number;
}

export interface Tables {
  sandboxes: SandboxTable;
  snapshots: SnapshotTable;
  snapshot_layers: SnapshotLayerTable;
  template_tags: TemplateTagTable;
  api_keys: ApiKeyTable;
  idempotency_keys: IdempotencyKeyTable;
}

export type Database = Kysely<Tables>;

/**
 * Opens the file, made if need be for its owner alone, and brings its schema up to date.
 * @throws storage.failed when it is damaged, or was written by a version that this one does not know
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
 * Once in the life of a database: pages and the log of a time before secrets were sealed are written over.
 * One that is in use by another process is left for the next start.
 */
function forgetPlainPages(sqlite: DatabaseSync): void {
  if (pragma(sqlite, "user_version") >= pagesWithoutSecrets) return;
  sqlite.exec("VACUUM");
  const isBusy = pragma(sqlite, "wal_checkpoint(TRUNCATE)") !== 0;
  if (!isBusy) sqlite.exec(`PRAGMA user_version = ${pagesWithoutSecrets}`);
}

/** Of the first column of the answer. */
function pragma(sqlite: DatabaseSync, text: string): number {
  return Number(Object.values(sqlite.prepare(`PRAGMA ${text}`).get() ?? {})[0]);
}

/** Node's own SQLite behind the small interface that Kysely's dialect asks for. */
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
