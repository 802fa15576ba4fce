import assert from "node:assert/strict";
import { mkdtempDisposable, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { silentLogger } from "@torpor/std";
import {
  type SnapshotManifest,
  SnapshotStore,
  type TemplateManifest,
  createOverlay,
  digestChunks,
} from "@torpor/storage";
import { newDiskLayerId } from "./entropy.ts";
import { type FoldedSandbox, Upkeep } from "./upkeep.ts";
import { WorkingSets } from "./working-sets.ts";

const diskBytes = 1 << 20;
const layerCount = 6;

type Record = FoldedSandbox["record"];
type Fold = readonly [before: SnapshotManifest, after: SnapshotManifest];

/** What a fold reads of a template. */
const template = { diskBytes, machine: { memoryMiB: 1 } } as TemplateManifest;

class World {
  readonly store: SnapshotStore;
  readonly upkeep: Upkeep;
  /** What the sandbox was told, in order. */
  readonly folds: Fold[] = [];
  readonly sandbox: FoldedSandbox;
  #snapshotId = "";

  constructor(
    store: SnapshotStore,
    workingSets: WorkingSets,
    take: (world: World, fold: Fold) => Promise<boolean>,
  ) {
    this.store = store;
    this.upkeep = new Upkeep({
      ...{ store, workingSets },
      templateIds: async () => [],
      templateOf: async () => template,
      needs: () => ({ snapshots: [this.#snapshotId], disks: [] }),
      log: silentLogger,
    });
    const record = (): Record =>
      ({ snapshotId: this.#snapshotId, state: { kind: "paused" } }) as Record;
    this.sandbox = {
      get record() {
        return record();
      },
      takeFold: async (...fold) => {
        this.folds.push(fold);
        return await take(this, fold);
      },
      shortenDisk: async () => undefined,
    };
  }

  /** The sandbox was saved, upon these disk layers and one more. */
  async save(snapshotId: string, below: SnapshotManifest["disk"]): Promise<SnapshotManifest> {
    const { store } = this;
    const layerId = newDiskLayerId();
    await createOverlay(store.diskPath(layerId), diskBytes);
    const layer = { layerId, digest: await digestChunks(store.diskPath(layerId)) };
    const staged = await store.stage(snapshotId);
    await writeFile(join(staged.path, "device.state"), snapshotId);
    const manifest: SnapshotManifest = {
      format: "torpor-snapshot-2",
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
    return manifest;
  }
}

async function play(take: (world: World, fold: Fold) => Promise<boolean>): Promise<World> {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-upkeep-"));
  const store = await SnapshotStore.open(folder.path);
  const workingSets = await WorkingSets.open(folder.path, silentLogger);
  const world = new World(store, workingSets, take);
  let disk: SnapshotManifest["disk"] = [];
  for (let count = 0; count < layerCount; count += 1) {
    ({ disk } = await world.save(`s${count}`, disk));
  }
  world.upkeep.after(world.sandbox);
  await world.upkeep.idle();
  return world;
}

function layersOf({ disk }: SnapshotManifest): readonly string[] {
  return disk.map(({ layerId }) => layerId);
}

test("a sandbox that is saved while its layers are folded takes the fold all the same", async () => {
  const saved: SnapshotManifest[] = [];
  const { folds } = await play(async (world, [before, after]) => {
    if (saved.length === 2) return true;
    const newest = await world.save(`later${saved.length}`, before.disk);
    saved.push(newest);
    assert.ok(await world.store.has(after.snapshotId));
    return false;
  });
  assert.equal(folds.length, 3);
  const [first, , last] = folds;
  assert.ok(first !== undefined && last !== undefined);
  const [before, after] = last;
  assert.deepEqual(before, saved[1]);
  const since = layersOf(before).slice(layerCount);
  assert.equal(since.length, 2);
  assert.deepEqual(layersOf(after), [...layersOf(first[1]), ...since]);
  assert.deepEqual({ ...after, snapshotId: "", disk: [] }, { ...before, snapshotId: "", disk: [] });
});

test("a sandbox that does not stand upon those layers any more is left alone", async () => {
  const { folds } = await play(async (world) => {
    await world.save("other", []);
    return false;
  });
  assert.equal(folds.length, 1);
});

test("a sandbox that is gone is told once", async () => {
  const { folds } = await play(async () => false);
  assert.equal(folds.length, 1);
});
