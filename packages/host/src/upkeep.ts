/**
 * What is done in the background. After a sandbox was saved long chains of layers are folded, and a VM that
 * runs is put upon what came of it, one thing at a time; and what nobody needs any more is removed as soon
 * as it is let go of. Never on the way of a request.
 */
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { type Logger, flush } from "@torpor/std";
import {
  MemoryStack,
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
  readonly log: Logger;
}

export class Upkeep {
  readonly #options: UpkeepOptions;
  #work: Promise<void> = Promise.resolve();
  #collecting: Promise<void> = Promise.resolve();
  #isCollectingSoon = false;
  #hasSwept = false;
  #ending = false;
  #hasEnded = false;

  constructor(options: UpkeepOptions) {
    this.#options = options;
  }

  /** From now on, when every record holds what it names: collects what an earlier daemon left, and what is let go of. */
  begin(): void {
    this.#options.store.onLetGo(() => this.#collectSoon());
    this.#collectSoon();
  }

  /** Later: folds the layers of this sandbox, if they are many. */
  after(sandbox: FoldedSandbox): void {
    this.#later(async () => {
      await this.#fold(sandbox);
    });
    this.#later(async () => {
      await this.#shorten(sandbox);
    });
  }

  /** Settles when everything asked for so far is done. */
  async idle(): Promise<void> {
    await this.#work;
    await this.#collecting;
  }

  /**
   * Folds nothing more, waits for what is under way, and collects what was let go of until now; what is
   * let go of later is the next daemon's.
   */
  async end(): Promise<void> {
    this.#ending = true;
    await this.#work;
    this.#collectSoon();
    this.#hasEnded = true;
    await this.#collecting;
  }

  /** What is let go of in between is collected at once. */
  #collectSoon(): void {
    if (this.#isCollectingSoon || this.#hasEnded) return;
    this.#isCollectingSoon = true;
    this.#collecting = this.#collectAfter(this.#collecting);
  }

  async #collectAfter(before: Promise<void>): Promise<void> {
    await before;
    await nextTurn();
    this.#isCollectingSoon = false;
    await this.#collect();
  }

  /** Never rejects: what could not be removed is tried again with the next that is let go of. */
  async #collect(): Promise<void> {
    const { store, workingSets, log } = this.#options;
    try {
      const letGo = await store.collect();
      await workingSets.remove(letGo);
      await this.#sweepOnce();
      if (letGo.length > 0) log.info("collected", { letGo });
    } catch (cause) {
      log.warn("what nobody needs could not be collected", { cause });
    }
  }

  async #sweepOnce(): Promise<void> {
    if (this.#hasSwept) return;
    const { store, workingSets, templateIds } = this.#options;
    await workingSets.sweep(async (ids) => {
      const templates = await templateIds();
      return ids.map((id) => store.isKept(id) || templates.includes(id));
    });
    this.#hasSwept = true;
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
