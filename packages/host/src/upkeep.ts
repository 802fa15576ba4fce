/**
 * What is done in the background after a sandbox was saved: long chains of layers are folded, a VM that
 * runs is put upon what came of it, and what nobody needs any more is removed. Never on the way of a
 * pause or a resume; one thing at a time.
 */
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { type Logger, flush } from "@torpor/std";
import {
  MemoryStack,
  type Needs,
  type SavedDiskLayer,
  type SavedMemory,
  type SnapshotManifest,
  type SnapshotStore,
  type TemplateManifest,
  assertFreeSpace,
  digestChunks,
  foldDiskLayers,
  layerBytes,
  planFold,
  snapshotFiles,
  verifyChunks,
} from "@torpor/storage";
import { newDiskLayerId, newSnapshotId } from "./entropy.ts";
import type { Sandbox } from "./sandbox/sandbox.ts";
import { planShortening } from "./sandbox/shorten.ts";
import type { WorkingSets } from "./working-sets.ts";

const bytesPerMiB = 1024 * 1024;

/** What is seen of a sandbox here. */
export type FoldedSandbox = Pick<Sandbox, "record" | "takeFold" | "shortenDisk">;

export interface UpkeepOptions {
  readonly store: SnapshotStore;
  readonly workingSets: WorkingSets;
  /** Of all there are. */
  readonly templateIds: () => Promise<readonly string[]>;
  readonly templateOf: (templateId: string) => Promise<TemplateManifest>;
  /** What all records name. */
  readonly needs: () => Needs;
  readonly log: Logger;
}

export class Upkeep {
  readonly #options: UpkeepOptions;
  #work: Promise<void> = Promise.resolve();
  #ending = false;

  constructor(options: UpkeepOptions) {
    this.#options = options;
  }

  /** Later: folds the layers of this sandbox, if they are many, and collects. */
  after(sandbox: FoldedSandbox): void {
    this.#later(async () => {
      await this.#fold(sandbox);
    });
    this.#later(async () => {
      await this.#shorten(sandbox);
    });
    this.#later(async () => {
      await this.collect();
    });
  }

  /** Now: removes what nobody needs. */
  async collect(): Promise<void> {
    const { store, workingSets, needs, templateIds } = this.#options;
    const layers = await store.collect(needs);
    const records = await workingSets.collect(async () => [
      ...(await templateIds()),
      ...needs().snapshots,
    ]);
    const removed = [...layers, ...records];
    if (removed.length > 0) this.#options.log.info("collected", { removed });
  }

  /** Settles when everything asked for so far is done. */
  async idle(): Promise<void> {
    await this.#work;
  }

  /** Begins nothing more, and waits for what is under way. */
  async end(): Promise<void> {
    this.#ending = true;
    await this.#work;
  }

  #later(work: () => Promise<void>): void {
    this.#work = this.#tryAfter(this.#work, work);
  }

  async #tryAfter(before: Promise<void>, work: () => Promise<void>): Promise<void> {
    await before;
    if (this.#ending) return;
    try {
      await work();
    } catch (cause) {
      this.#options.log.warn("background work failed", { cause });
    }
  }

  async #fold(sandbox: FoldedSandbox): Promise<void> {
    const { snapshotId } = sandbox.record;
    const { store } = this.#options;
    if (snapshotId === null) return;
    await using undo = new AsyncDisposableStack();
    undo.use(store.keep(snapshotId));
    const before = await store.read(snapshotId);
    const memoryFrom = before.memory.kind === "layers" ? planMemory(before.memory) : undefined;
    const diskFrom = planFold(before.disk.map(({ digest }) => digest.bytes))?.first;
    if (memoryFrom === undefined && diskFrom === undefined) return;
    // Both the old and the new are there for a while.
    await assertFreeSpace(store.path, totalOf(before));
    const foldedId = newSnapshotId();
    const foldedDisk = newDiskLayerId();
    const equalId = newSnapshotId();
    undo.use(store.keep(foldedId, foldedDisk, equalId));
    await using unlessPublished = new AsyncDisposableStack();
    const staged = unlessPublished.use(await store.stage(foldedId));
    await copyFile(store.deviceStatePath(snapshotId), join(staged.path, snapshotFiles.deviceState));
    const template = await this.#options.templateOf(before.templateId);
    const after: SnapshotManifest = {
      ...before,
      snapshotId: foldedId,
      memory:
        memoryFrom === undefined || before.memory.kind !== "layers"
          ? before.memory
          : await this.#foldMemory(before.memory, memoryFrom, template, staged.path, foldedId),
      disk:
        diskFrom === undefined
          ? before.disk
          : await this.#foldDisk(before.disk, diskFrom, template, foldedDisk),
    };
    await staged.publish(after);
    unlessPublished.move();
    await sandbox.takeFold((snapshot) => this.#equalOf(snapshot, before, after, equalId));
  }

  /**
   * A snapshot that was taken since the fold began stands upon the same disk, and is given an equal too: a
   * sandbox that is saved more often than can be folded would else have ever more layers.
   */
  async #equalOf(
    snapshot: SnapshotManifest,
    before: SnapshotManifest,
    after: SnapshotManifest,
    equalId: string,
  ): Promise<SnapshotManifest | undefined> {
    if (snapshot.snapshotId === before.snapshotId) return after;
    if (after.disk.length === before.disk.length) return undefined;
    if (before.disk.some(({ layerId }, index) => snapshot.disk[index]?.layerId !== layerId)) {
      return undefined;
    }
    const disk = [...after.disk, ...snapshot.disk.slice(before.disk.length)];
    return await this.#options.store.copy(snapshot.snapshotId, equalId, disk);
  }

  /** A running VM stands upon what was folded from here on, now or at an earlier time that failed. */
  async #shorten(sandbox: FoldedSandbox): Promise<void> {
    const { snapshotId, state, diskLayers } = sandbox.record;
    if (snapshotId === null || state.kind !== "running") return;
    const plan = planShortening(state.openDisks, diskLayers);
    if (plan === undefined) return;
    const { store } = this.#options;
    using holds = new DisposableStack();
    holds.use(store.keep(snapshotId));
    const { disk } = await store.read(snapshotId);
    // No guest reads what nobody has looked at: a fold that could not be used at once may be old.
    for (const { layerId, digest } of disk) {
      const isNew = plan.below.includes(layerId) && !state.openDisks.includes(layerId);
      if (isNew) await verifyChunks(store.diskPath(layerId), digest);
    }
    // The VMM flushes it while the guest's requests wait; what there is to write is written before.
    await flush(store.diskPath(plan.above));
    await sandbox.shortenDisk();
  }

  async #foldMemory(
    { layers }: LayeredMemory,
    first: number,
    { machine }: TemplateManifest,
    folder: string,
    snapshotId: string,
  ): Promise<SavedMemory> {
    const folded = this.#options.store.stacked(layers.slice(first));
    await using stack = await MemoryStack.open(folded, machine.memoryMiB * bytesPerMiB);
    const digest = await stack.fold(folder);
    return { kind: "layers", layers: [...layers.slice(0, first), { snapshotId, digest }] };
  }

  async #foldDisk(
    layers: readonly SavedDiskLayer[],
    first: number,
    { diskBytes }: TemplateManifest,
    layerId: string,
  ): Promise<readonly SavedDiskLayer[]> {
    const { store } = this.#options;
    const folded = layers.slice(first);
    // Damage must not be copied into a file with a checksum of its own.
    for (const layer of folded) await verifyChunks(store.diskPath(layer.layerId), layer.digest);
    const target = store.diskPath(layerId);
    await foldDiskLayers(
      folded.map((layer) => store.diskPath(layer.layerId)),
      target,
      diskBytes,
    );
    await flush(target);
    return [...layers.slice(0, first), { layerId, digest: await digestChunks(target) }];
  }
}

type LayeredMemory = Extract<SavedMemory, { kind: "layers" }>;

function totalOf({ memory, disk }: SnapshotManifest): number {
  const memoryBytes =
    memory.kind === "layers" ? memory.layers.map((one) => layerBytes(one.digest)) : [];
  return [...memoryBytes, ...disk.map(({ digest }) => digest.bytes)].reduce((a, b) => a + b, 0);
}

function planMemory({ layers }: LayeredMemory): number | undefined {
  return planFold(layers.map(({ digest }) => layerBytes(digest)))?.first;
}
