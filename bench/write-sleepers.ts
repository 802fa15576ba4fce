/**
 * Fills a state folder with sleeping sandboxes: real rows, and snapshots that the store publishes,
 * of a few KiB each. A program of its own, because each build has to write its own state:
 *
 *     node write-sleepers.ts CHECKOUT STATE CACHE COUNT      prints their ids, one a line
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { SandboxRecord } from "@torpor/host";
import { silentLogger } from "@torpor/std";
import type { SnapshotManifest } from "@torpor/storage";

/** Chunks whose checksums make a manifest of some 8 KiB, the size of an idle sandbox's. */
const chunks = 100;
const writersAtOnce = 8;

const [, , checkout = "", state = "", cache = "", countText = ""] = process.argv;
type Storage = Omit<typeof import("@torpor/storage"), "KeyFile"> &
  Partial<Pick<typeof import("@torpor/storage"), "KeyFile">>;

/** Loads a package of that checkout; an older one may lack what is imported here. */
async function load<T>(path: string): Promise<T> {
  return (await import(join(checkout, "packages", path, "src/index.ts"))) as T;
}
const host = await load<Partial<typeof import("@torpor/host")>>("host");
const storage = await load<Storage>("storage");
const testing = await load<typeof import("@torpor/testing")>("testing");

const templates = new storage.TemplateStore(storage.templatesFolder(cache));
const templateId = await testing.makeFakeTemplate(templates, "base");
await mkdir(state, { recursive: true, mode: 0o700 });
if (host.openDatabase === undefined || host.SandboxRecords === undefined) {
  throw new TypeError("that checkout has no records as they are known here");
}
// An older build uses only the parts of this that it knows.
const keys = storage.KeyFile?.open(join(cache, "host.key"), silentLogger);
const sealer = keys === undefined ? undefined : new storage.Sealer(keys);
const sealing = { sealer, stateFolder: state };
const database = await host.openDatabase(
  join(state, storage.stateFiles.database),
  sealing as never,
);
const records = new host.SandboxRecords(database, sealer as never);
const layers = host.SnapshotLayers;
const ledger = layers === undefined ? undefined : new layers(database);
const store = await storage.SnapshotStore.open(state, sealer as never, ledger as never);
const chunkSha256 = Array.from({ length: chunks }, (_, index) =>
  index.toString(16).padStart(64, "0"),
);

const lifetime: SandboxRecord["lifetime"] = {
  onTimeout: "pause",
  endAtMs: null,
  leftMs: 300_000,
  idleTimeoutMs: null,
  maxRunMs: null,
  ranMs: 1_000,
  endedAtMs: 1,
};
const numbers = Array.from({ length: Number(countText) }, (_, index) => index);
const work = numbers.values();
await Promise.all(
  Array.from({ length: writersAtOnce }, async () => {
    for (const index of work) await writeSleeper(index);
  }),
);
await database.destroy();
process.stdout.write(`${numbers.map(sandboxIdOf).join("\n")}\n`);

function sandboxIdOf(index: number): string {
  return `i${String(index).padStart(20, "0")}`;
}

async function writeSleeper(index: number): Promise<void> {
  const id = sandboxIdOf(index);
  const snapshotId = `s${String(index).padStart(19, "0")}`;
  const layerId = `d${String(index).padStart(20, "0")}`;
  await mkdir(new storage.SandboxFolder(state, id).path, { recursive: true });
  await writeFile(store.diskPath(layerId), "disk");
  const staged = await store.stage(snapshotId);
  for (const name of ["device.state", "memory.map", "memory.pages"]) {
    await writeFile(join(staged.path, name), name);
  }
  const digest = { bytes: 4096, chunkBytes: 4096, chunkSha256 };
  const manifest: SnapshotManifest = {
    format: sealer === undefined ? ("torpor-snapshot-2" as never) : "torpor-snapshot-3",
    snapshotId,
    sandboxId: id,
    templateId,
    generation: 2,
    createdAtMs: Date.now(),
    identity: { vmm: "qemu", version: "1", accelerator: "tcg", cpuFingerprint: "f", tscKhz: 1 },
    commandLine: [],
    hostKey: "k".repeat(64),
    memory: {
      kind: "layers",
      layers: [{ snapshotId, digest: { ...digest, dataPages: 1, zeroPages: 0, mapSha256: "" } }],
    },
    deviceState: { ...digest, chunkSha256: [] },
    disk: [{ layerId, digest: { ...digest, chunkSha256: [] } }],
  };
  await staged.publish(manifest);
  await records.save({
    id,
    templateId,
    templateName: "base",
    generation: 2,
    snapshotId,
    previousSnapshotId: null,
    state: { kind: "paused" },
    diskLayers: [layerId],
    lifetime,
    hostKey: "k".repeat(64),
    accessToken: "t".repeat(64),
    metadata: { user: id },
    envVars: { NAME: id },
    createdAtMs: index,
    startedAtMs: index,
    network: null,
    autoResume: null,
  });
}
