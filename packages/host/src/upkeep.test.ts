import assert from "node:assert/strict";
import { mkdtempDisposable, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { silentLogger } from "@torpor/std";
import {
  KeyFile,
  Sealer,
  type SnapshotManifest,
  SnapshotStore,
  type TemplateManifest,
  createOverlay,
  digestChunks,
  keyFileName,
} from "@torpor/storage";
import { newDiskLayerId } from "./entropy.ts";
import { openDatabase } from "./records/database.ts";
import { SnapshotLayers } from "./records/snapshot-layers.ts";
import { type FoldedSandbox, Upkeep } from "./upkeep.ts";
import { WorkingSets } from "./working-sets.ts";

const diskBytes = 1 << 20;
const layerCount = 6;

type Record = FoldedSandbox["record"];
type Fold = readonly [before: SnapshotManifest, after: SnapshotManifest | undefined];
/**
 * The snapshot that the sandbox builds on when a compaction is done; undefined if the sandbox is
 * gone.
 * @param disk The layers that it built on before.
 */
type Meanwhile = (
  world: World,
  disk: SnapshotManifest["disk"],
) => Promise<SnapshotManifest | undefined>;

/** The fields of a template that a compaction reads. */
const template = { diskBytes, machine: { memoryMiB: 1 } } as TemplateManifest;

class World {
  readonly store: SnapshotStore;
  readonly upkeep: Upkeep;
  /** Snapshots that the sandbox was moved from and to, in order. */
  readonly folds: Fold[] = [];
  readonly sandbox: FoldedSandbox;
  /** The snapshot that the sandbox built on when `takeFold` was called. */
  saved: SnapshotManifest | undefined;
  told = 0;
  #snapshotId = "";
  #disk: SnapshotManifest["disk"] = [];

  constructor(store: SnapshotStore, workingSets: WorkingSets, meanwhile: Meanwhile) {
    this.store = store;
    this.upkeep = new Upkeep({
      ...{ store, workingSets },
      templateIds: async () => [],
      templateOf: async () => template,
      log: silentLogger,
    });
    const record = (): Record =>
      ({ snapshotId: this.#snapshotId, state: { kind: "paused" } }) as Record;
    this.sandbox = {
      get record() {
        return record();
      },
      takeFold: async (equalOf) => {
        this.told += 1;
        this.saved = await meanwhile(this, this.#disk);
        if (this.saved !== undefined) this.folds.push([this.saved, await equalOf(this.saved)]);
      },
      shortenDisk: async () => undefined,
    };
  }

  /** Saves the sandbox, on top of these disk layers and a new one. */
  async save(snapshotId: string, below: SnapshotManifest["disk"]): Promise<SnapshotManifest> {
    const { store } = this;
    const layerId = newDiskLayerId();
    await createOverlay(store.diskPath(layerId), diskBytes);
    const layer = { layerId, digest: await digestChunks(store.diskPath(layerId)) };
    const staged = await store.stage(snapshotId);
    await writeFile(join(staged.path, "device.state"), snapshotId);
    const manifest: SnapshotManifest = {
      format: "torpor-snapshot-3",
      snapshotId,
      sandboxId: "i1",
      templateId: "t1",
      generation: 2,
      createdAtMs: 1,
      identity: { vmm: "qemu", version: "1", accelerator: "tcg", cpuFingerprint: "f", tscKhz: 1 },
      commandLine: [],
      hostKey: "k",
      memory: { kind: "whole" },
      deviceState: await digestChunks(join(staged.path, "device.state")),
      disk: [...below, layer],
    };
    await staged.publish(manifest);
    this.#snapshotId = snapshotId;
    this.#disk = manifest.disk;
    return manifest;
  }
}

async function play(meanwhile: Meanwhile): Promise<World> {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-upkeep-"));
  const keys = KeyFile.open(join(folder.path, keyFileName), silentLogger);
  const sealer = new Sealer(keys);
  const database = await openDatabase(":memory:", { sealer, stateFolder: folder.path });
  const store = await SnapshotStore.open(folder.path, sealer, new SnapshotLayers(database));
  const workingSets = await WorkingSets.open(folder.path, silentLogger);
  const world = new World(store, workingSets, meanwhile);
  let disk: SnapshotManifest["disk"] = [];
  for (let count = 0; count < layerCount; count += 1) {
    ({ disk } = await world.save(`s${count}`, disk));
  }
  world.upkeep.after(world.sandbox);
  await world.upkeep.idle();
  await database.destroy();
  return world;
}

function layersOf({ disk }: SnapshotManifest): readonly string[] {
  return disk.map(({ layerId }) => layerId);
}

test("a sandbox that is saved while its layers are folded takes the fold all the same", async () => {
  const { folds, saved } = await play(async (world, disk) => {
    ({ disk } = await world.save("later0", disk));
    return await world.save("later1", disk);
  });
  assert.equal(folds.length, 1);
  const [fold] = folds;
  assert.ok(fold !== undefined);
  const [before, after] = fold;
  assert.ok(after !== undefined);
  assert.deepEqual(before, saved);
  const since = layersOf(before).slice(layerCount);
  assert.equal(since.length, 2);
  assert.ok(layersOf(after).length < layersOf(before).length);
  assert.deepEqual(layersOf(after).slice(-2), since);
  assert.deepEqual({ ...after, snapshotId: "", disk: [] }, { ...before, snapshotId: "", disk: [] });
});

test("a sandbox that does not stand upon those layers any more is left alone", async () => {
  const { folds } = await play((world) => world.save("other", []));
  assert.deepEqual(
    folds.map(([, after]) => after),
    [undefined],
  );
});

test("a sandbox that is gone is told once", async () => {
  const { folds, told } = await play(async () => undefined);
  assert.deepEqual([told, folds.length], [1, 0]);
});
