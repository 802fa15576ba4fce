/**
 * The daemon's database: SQLite in one file, through Kysely.
 *
 * Every commit is flushed before it returns (WAL with synchronous FULL), because a record says what
 * is about to be done to a sandbox before it is done. Statements are written in Kysely's query
 * builder only, so that another SQL dialect can take the place of this one.
 */
import { DatabaseSync, type SQLInputValue } from "node:sqlite";
import { Kysely, SqliteDialect, type SqliteDatabase } from "kysely";

export interface SandboxTable {
  id: string;
  template_id: string;
  template_name: string;
  /** Of the newest VM run; the next run has one more. */
  generation: number;
  /** Generation of the newest published snapshot, or null. */
  snapshot_generation: number | null;
  /** JSON of `SandboxState`. */
  state: string;
  /** Generations of disk layers above the template's disk, JSON array, oldest first. */
  disk_generations: string;
  host_key: string;
  access_token: string;
  /** JSON maps of strings. */
  metadata: string;
  env_vars: string;
  created_at_ms: number;
  started_at_ms: number;
}

export interface ApiKeyTable {
  id: string;
  name: string;
  /** SHA-256, hex, of the key's bytes; the key itself is not kept. */
  key_sha256: string;
  /** First characters, to tell keys apart in a list. */
  prefix: string;
  created_at_ms: number;
}

export interface Tables {
  sandboxes: SandboxTable;
  api_keys: ApiKeyTable;
}

export type Database = Kysely<Tables>;

/** Opens the file and brings its schema up to date. */
export async function openDatabase(path: string): Promise<Database> {
  const sqlite = new DatabaseSync(path);
  sqlite.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000");
  const database = new Kysely<Tables>({
    dialect: new SqliteDialect({ database: adapt(sqlite) }),
  });
  await createTables(database);
  return database;
}

async function createTables(database: Database): Promise<void> {
  await database.schema
    .createTable("sandboxes")
    .ifNotExists()
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("template_id", "text", (column) => column.notNull())
    .addColumn("template_name", "text", (column) => column.notNull())
    .addColumn("generation", "integer", (column) => column.notNull())
    .addColumn("snapshot_generation", "integer")
    .addColumn("state", "text", (column) => column.notNull())
    .addColumn("disk_generations", "text", (column) => column.notNull())
    .addColumn("host_key", "text", (column) => column.notNull())
    .addColumn("access_token", "text", (column) => column.notNull())
    .addColumn("metadata", "text", (column) => column.notNull())
    .addColumn("env_vars", "text", (column) => column.notNull())
    .addColumn("created_at_ms", "bigint", (column) => column.notNull())
    .addColumn("started_at_ms", "bigint", (column) => column.notNull())
    .execute();
  await database.schema
    .createTable("api_keys")
    .ifNotExists()
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("key_sha256", "text", (column) => column.notNull().unique())
    .addColumn("prefix", "text", (column) => column.notNull())
    .addColumn("created_at_ms", "bigint", (column) => column.notNull())
    .execute();
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
