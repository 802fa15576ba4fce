/** Someone who has the state folder but not the key finds no token, host key or variable. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdir, mkdtempDisposable, readFile, readdir, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { test } from "node:test";
import { TorporError, silentLogger } from "@torpor/std";
import { KeyFile, Sealer, SnapshotStore, keyFileName, stateFiles } from "@torpor/storage";
import { newLifetime } from "../lifecycle/lifetime.ts";
import { type Database, openDatabase } from "./database.ts";
import { migrationsWith } from "./migrations.ts";
import { SnapshotLayers } from "./snapshot-layers.ts";
import { type SandboxRecord, SandboxRecords } from "./sandbox-records.ts";

const hostKey = "a0b1c2d3".repeat(8);
const accessToken = "e4f5a6b7".repeat(8);
const secretText = "planted-secret-value";
const planted = [hostKey, accessToken, secretText];

interface Opened {
  readonly database: Database;
  readonly records: SandboxRecords;
  readonly store: SnapshotStore;
}

/** Opens the database and the store as a daemon does; the key is beside the folder. */
async function open(folder: string, undo: AsyncDisposableStack, key = "key"): Promise<Opened> {
  const keyFile = join(folder, "..", key, keyFileName);
  const sealer = new Sealer(KeyFile.open(keyFile, silentLogger));
  const database = await openDatabase(join(folder, stateFiles.database), {
    sealer,
    stateFolder: folder,
  });
  undo.defer(() => database.destroy());
  const store = await SnapshotStore.open(folder, sealer, new SnapshotLayers(database));
  return { database, store, records: new SandboxRecords(database, sealer) };
}

function recordOf(id: string): SandboxRecord {
  return {
    id,
    templateId: "t",
    templateName: "base",
    generation: 1,
    snapshotId: "s",
    previousSnapshotId: null,
    state: { kind: "paused" },
    diskLayers: [],
    lifetime: newLifetime({}),
    hostKey,
    accessToken,
    envVars: { NAME: secretText, TOKEN: hostKey },
    metadata: { label: "kept in plain" },
    createdAtMs: 1,
    startedAtMs: 1,
    network: null,
    autoResume: null,
  };
}

/** Names of the files below the folder that contain a planted secret. */
async function filesWithSecrets(folder: string): Promise<readonly string[]> {
  const found: string[] = [];
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const bytes = await readFile(join(entry.parentPath, entry.name));
    if (planted.some((secret) => bytes.includes(secret))) found.push(entry.name);
  }
  return found;
}

/** Writes a database as the version before did, with rows that were changed and removed since. */
function writePlainDatabase(path: string): void {
  using sqlite = new DatabaseSync(path);
  sqlite.exec("PRAGMA journal_mode = WAL");
  sqlite.exec(`
    CREATE TABLE kysely_migration (name varchar(255) PRIMARY KEY NOT NULL, timestamp varchar(255) NOT NULL);
    CREATE TABLE kysely_migration_lock (id varchar(255) PRIMARY KEY NOT NULL, is_locked integer NOT NULL DEFAULT 0);
    INSERT INTO kysely_migration_lock VALUES ('migration_lock', 0);
    CREATE TABLE sandboxes (id text PRIMARY KEY, template_id text NOT NULL, template_name text NOT NULL,
      generation integer NOT NULL, snapshot_id text, previous_snapshot_id text, state text NOT NULL,
      disk_layers text NOT NULL, lifetime text NOT NULL, host_key text NOT NULL, access_token text NOT NULL,
      metadata text NOT NULL, env_vars text NOT NULL, created_at_ms bigint NOT NULL,
      started_at_ms bigint NOT NULL, network text, auto_resume text)`);
  const names = Object.keys(migrationsWith({} as never));
  for (const name of names.slice(0, names.indexOf("0004-sealed-secrets"))) {
    sqlite
      .prepare("INSERT INTO kysely_migration VALUES (?, ?)")
      .run(name, new Date(0).toISOString());
  }
  const insert = sqlite.prepare(`INSERT INTO sandboxes VALUES
    (?, 't', 'base', 1, 's', NULL, ?, '[]', ?, ?, ?, '{}', ?, 1, 1, NULL, NULL)`);
  for (let index = 0; index < 200; index += 1) {
    const { state, lifetime, envVars } = recordOf(`i${index}`);
    const token = index === 1 ? "" : accessToken;
    const texts = [state, lifetime].map((one) => JSON.stringify(one));
    insert.run(`i${index}`, ...texts, hostKey, token, JSON.stringify(envVars));
  }
  sqlite.exec("DELETE FROM sandboxes WHERE id > 'i1'");
}

async function writePlainSnapshot(folder: string, id: string): Promise<void> {
  const manifest = { format: "torpor-snapshot-2", snapshotId: id, hostKey, disk: [] };
  const digest = createHash("sha256").update(JSON.stringify(manifest)).digest("hex");
  await mkdir(join(folder, "snapshots", id), { recursive: true });
  await writeFile(
    join(folder, "snapshots", id, "manifest.json"),
    JSON.stringify({ digest, manifest }),
  );
}

test("no file of the state folder holds a token, host key or variable of a sandbox", async () => {
  await using outer = await mkdtempDisposable(join(tmpdir(), "torpor-sealed-"));
  const folder = join(outer.path, "state");
  await mkdir(folder);
  await using undo = new AsyncDisposableStack();
  const { records, database } = await open(folder, undo);
  for (let index = 0; index < 20; index += 1) await records.save(recordOf(`i${index}`));
  for (let index = 0; index < 10; index += 1) await records.remove(`i${index}`);
  assert.deepEqual(await filesWithSecrets(folder), [], "while the log is not folded in");
  assert.deepEqual((await records.all())[0], recordOf("i10"));
  await database.destroy();
  assert.deepEqual(await filesWithSecrets(folder), []);
});

test("secrets that an earlier version left in plain are sealed, and no page or log holds them any more", async () => {
  await using outer = await mkdtempDisposable(join(tmpdir(), "torpor-sealed-"));
  const folder = join(outer.path, "state");
  await mkdir(folder);
  writePlainDatabase(join(folder, stateFiles.database));
  await writePlainSnapshot(folder, "s");
  const before = await filesWithSecrets(folder);
  assert.deepEqual([...before].sort(), ["manifest.json", stateFiles.database]);
  await using undo = new AsyncDisposableStack();
  const { records, store } = await open(folder, undo);
  assert.deepEqual(await filesWithSecrets(folder), []);
  const all = await records.all();
  assert.deepEqual(
    all.map(({ id, accessToken: token, envVars }) => [id, token, envVars]),
    [
      ["i0", accessToken, recordOf("i0").envVars],
      ["i1", null, recordOf("i1").envVars],
    ],
  );
  assert.deepEqual([all[0]?.hostKey, (await store.read("s")).hostKey], [hostKey, hostKey]);
  // A user may restore a plain copy from a backup.
  await writePlainSnapshot(folder, "old");
  assert.equal((await store.read("old")).hostKey, hostKey);
});

test("a record or snapshot whose key is lost fails with what to do, and no key takes its place", async () => {
  await using outer = await mkdtempDisposable(join(tmpdir(), "torpor-sealed-"));
  const folder = join(outer.path, "state");
  await mkdir(folder);
  await using undo = new AsyncDisposableStack();
  const { records } = await open(folder, undo);
  await records.save(recordOf("i1"));
  const other = await open(folder, undo, "other");
  await assert.rejects(other.records.all(), (error) => {
    assert.ok(TorporError.is(error) && error.code === "secrets.locked");
    assert.match(error.advice, /TORPOR_KEY_FILE/);
    return error.message.includes("other");
  });
  await assert.rejects(stat(join(outer.path, "other")), "only sealing makes a key");
});

test("a sealed secret that is moved to another sandbox's row is refused", async () => {
  await using outer = await mkdtempDisposable(join(tmpdir(), "torpor-sealed-"));
  const folder = join(outer.path, "state");
  await mkdir(folder);
  await using undo = new AsyncDisposableStack();
  const { records, database } = await open(folder, undo);
  await records.save(recordOf("i1"));
  await records.save({ ...recordOf("i2"), accessToken: null });
  const { secrets } = await database
    .selectFrom("sandboxes")
    .select("secrets")
    .where("id", "=", "i2")
    .executeTakeFirstOrThrow();
  await database.updateTable("sandboxes").set({ secrets }).where("id", "=", "i1").execute();
  await assert.rejects(
    records.all(),
    (error) => TorporError.is(error) && error.code === "secrets.damaged",
  );
});

test("the database, its log and its shared memory are their owner's alone, whatever the umask", async () => {
  await using outer = await mkdtempDisposable(join(tmpdir(), "torpor-sealed-"));
  const umask = process.umask(0);
  await using undo = new AsyncDisposableStack();
  const { records } = await open(outer.path, undo);
  await records.save(recordOf("i1"));
  process.umask(umask);
  for (const suffix of ["", "-wal", "-shm"]) {
    const { mode } = await stat(join(outer.path, `${stateFiles.database}${suffix}`));
    assert.equal(mode & 0o777, 0o600, suffix);
  }
});
