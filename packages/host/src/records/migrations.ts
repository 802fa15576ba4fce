/**
 * The database's schema as migrations, each applied once, in the order of their names. A released
 * migration is never changed; a later change is a new migration.
 */
import { type Sealer, sealSnapshots } from "@torpor/storage";
import type { Kysely } from "kysely";
import type { Migration } from "kysely/migration";
import { sealSecrets } from "./sandbox-secrets.ts";

/** The means to seal the secrets of earlier versions, in records and in snapshots. */
export interface Sealing {
  readonly sealer: Sealer;
  /** The folder whose snapshots are sealed too. */
  readonly stateFolder: string;
}

/** `sandboxes` as it was before its secrets were sealed. */
interface PlainTables {
  sandboxes: {
    id: string;
    host_key: string;
    access_token: string;
    env_vars: string;
    secrets: string;
  };
}

/** Every migration by name. `up` of "0004-sealed-secrets" also rewrites snapshots on disk. */
export function migrationsWith(sealing: Sealing): Readonly<Record<string, Migration>> {
  return {
    ...tables,
    "0004-sealed-secrets": {
      up: async (database: Kysely<PlainTables>) => await seal(database, sealing),
    },
    "0005-snapshot-layers": {
      up: async (database: Kysely<unknown>) => {
        await database.schema
          .createTable("snapshot_layers")
          .addColumn("layer_id", "text", (column) => column.notNull())
          .addColumn("snapshot_id", "text", (column) => column.notNull())
          .addPrimaryKeyConstraint("snapshot_layers_layer_snapshot", ["layer_id", "snapshot_id"])
          .execute();
        await database.schema
          .createIndex("snapshot_layers_snapshot")
          .on("snapshot_layers")
          .column("snapshot_id")
          .execute();
      },
    },
  };
}

const tables: Readonly<Record<string, Migration>> = {
  "0001-sandboxes": {
    up: async (database: Kysely<unknown>) => {
      await database.schema
        .createTable("sandboxes")
        .addColumn("id", "text", (column) => column.primaryKey())
        .addColumn("template_id", "text", (column) => column.notNull())
        .addColumn("template_name", "text", (column) => column.notNull())
        .addColumn("generation", "integer", (column) => column.notNull())
        .addColumn("snapshot_id", "text")
        .addColumn("previous_snapshot_id", "text")
        .addColumn("state", "text", (column) => column.notNull())
        .addColumn("disk_layers", "text", (column) => column.notNull())
        .addColumn("lifetime", "text", (column) => column.notNull())
        .addColumn("host_key", "text", (column) => column.notNull())
        .addColumn("access_token", "text", (column) => column.notNull())
        .addColumn("metadata", "text", (column) => column.notNull())
        .addColumn("env_vars", "text", (column) => column.notNull())
        .addColumn("created_at_ms", "bigint", (column) => column.notNull())
        .addColumn("started_at_ms", "bigint", (column) => column.notNull())
        .execute();
      await database.schema
        .createTable("snapshots")
        .addColumn("id", "text", (column) => column.primaryKey())
        .addColumn("name", "text", (column) => column.unique())
        .addColumn("sandbox_id", "text", (column) => column.notNull())
        .addColumn("template_id", "text", (column) => column.notNull())
        .addColumn("created_at_ms", "bigint", (column) => column.notNull())
        .addColumn("pool", "integer", (column) => column.notNull())
        .execute();
      await database.schema
        .createTable("api_keys")
        .addColumn("id", "text", (column) => column.primaryKey())
        .addColumn("name", "text", (column) => column.notNull())
        .addColumn("prefix", "text", (column) => column.notNull())
        .addColumn("created_at_ms", "bigint", (column) => column.notNull())
        .addColumn("key_sha256", "text", (column) => column.notNull().unique())
        .execute();
    },
  },
  "0002-control-plane": {
    up: async (database: Kysely<unknown>) => {
      await database.schema.alterTable("sandboxes").addColumn("network", "text").execute();
      await database.schema.alterTable("sandboxes").addColumn("auto_resume", "text").execute();
      await database.schema.alterTable("api_keys").addColumn("suffix", "text").execute();
      await database.schema
        .alterTable("api_keys")
        .addColumn("kind", "text", (column) => column.notNull().defaultTo("api-key"))
        .execute();
      await database.schema
        .createTable("template_tags")
        .addColumn("name", "text", (column) => column.notNull())
        .addColumn("tag", "text", (column) => column.notNull())
        .addColumn("target_id", "text", (column) => column.notNull())
        .addColumn("created_at_ms", "bigint", (column) => column.notNull())
        .addPrimaryKeyConstraint("template_tags_name_tag", ["name", "tag"])
        .execute();
    },
  },
  "0003-idempotency-keys": {
    up: async (database: Kysely<unknown>) => {
      await database.schema
        .createTable("idempotency_keys")
        .addColumn("caller", "text", (column) => column.notNull())
        .addColumn("idempotency_key", "text", (column) => column.notNull())
        .addColumn("request_sha256", "text", (column) => column.notNull())
        .addColumn("ids", "text", (column) => column.notNull())
        .addColumn("made", "text")
        .addColumn("created_at_ms", "bigint", (column) => column.notNull())
        .addPrimaryKeyConstraint("idempotency_keys_caller_key", ["caller", "idempotency_key"])
        .execute();
      await database.schema
        .createIndex("idempotency_keys_created_at_ms")
        .on("idempotency_keys")
        .column("created_at_ms")
        .execute();
    },
  },
};

async function seal(
  database: Kysely<PlainTables>,
  { sealer, stateFolder }: Sealing,
): Promise<void> {
  // ORDER: a crash in between repeats the migration, which leaves sealed snapshots as they are.
  await sealSnapshots(stateFolder, sealer);
  await database.schema
    .alterTable("sandboxes")
    .addColumn("secrets", "text", (column) => column.notNull().defaultTo(""))
    .execute();
  const rows = await database
    .selectFrom("sandboxes")
    .select(["id", "host_key", "access_token", "env_vars"])
    .execute();
  for (const { id, host_key, access_token, env_vars } of rows) {
    const secrets = sealSecrets(sealer, id, {
      hostKey: host_key,
      accessToken: access_token === "" ? null : access_token,
      envVars: JSON.parse(env_vars) as Record<string, string>,
    });
    await database.updateTable("sandboxes").set({ secrets }).where("id", "=", id).execute();
  }
  for (const column of ["host_key", "access_token", "env_vars"]) {
    await database.schema.alterTable("sandboxes").dropColumn(column).execute();
  }
}
