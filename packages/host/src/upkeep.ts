/**
 * Background work, never in the path of a request. After a sandbox was saved, long chains of its
 * layers are compacted and the disk of its running VM is rebased onto the result, one thing at a
 * time. Files that nothing needs any more are garbage-collected as soon as they are let go of.
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

/** The part of a sandbox that upkeep uses. */
export type FoldedSandbox = Pick<Sandbox, "record" | "takeFold" | "shortenDisk">;

/** Dependencies of `Upkeep`. */
export interface UpkeepOptions {
  readonly store: SnapshotStore;
  readonly workingSets: WorkingSets;
  /** Ids of all templates. */
  readonly templateIds: () => Promise<readonly string[]>;
  readonly templateOf: (templateId: string) => Promise<TemplateManifest>;
  readonly log: Logger;
}

/** Compacts and garbage-collects in the background, until ended. */
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

  /**
   * Starts garbage collection: of what an earlier daemon left, and of what is let go of from now
   * on. Call it once every record holds what it names.
   */
  begin(): void {
    this.#options.store.onLetGo(() => this.#collectSoon());
    this.#collectSoon();
  }

  /**
   * Queues the compaction of this sandbox's layers, if there are many, and the rebase of its VM's
   * disk.
   */
  after(sandbox: FoldedSandbox): void {
    this.#later(async () => {
      await this.#fold(sandbox);
    });
    this.#later(async () => {
      await this.#shorten(sandbox);
    });
  }

  /** Settles when everything requested so far is done. */
  async idle(): Promise<void> {
    await this.#work;
    await this.#collecting;
  }

  /**
   * Compacts nothing more, waits for work in progress, and collects what was let go of until now.
   * The next daemon collects what is let go of later.
   */
  async end(): Promise<void> {
    this.#ending = true;
    await this.#work;
    this.#collectSoon();
    this.#hasEnded = true;
    await this.#collecting;
  }

  /** Starts one collection for everything that is let go of before it begins. */
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

  /** Never rejects: files that could not be removed are retried at the next collection. */
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
    // The old and the new layers both exist for a while.
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
   * The equal of the snapshot that the sandbox has by now. A snapshot that was taken since the
   * compaction began builds on the same disk and gets an equal too: otherwise a sandbox that is
   * saved faster than its layers are compacted would have ever more of them.
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

  /**
   * Rebases a running VM's disk onto compacted layers, from this compaction or from one whose
   * rebase failed.
   */
  async #shorten(sandbox: FoldedSandbox): Promise<void> {
    const { snapshotId, state, diskLayers } = sandbox.record;
    if (snapshotId === null || state.kind !== "running") return;
    const plan = planShortening(state.openDisks, diskLayers);
    if (plan === undefined) return;
    const { store } = this.#options;
    using holds = new DisposableStack();
    holds.use(store.keep(snapshotId));
    const { disk } = await store.read(snapshotId);
    // Verified before a guest reads it: a compacted layer that was not used at once may be old.
    for (const { layerId, digest } of disk) {
      const isNew = plan.below.includes(layerId) && !state.openDisks.includes(layerId);
      if (isNew) await verifyChunks(store.diskPath(layerId), digest);
    }
    // The VMM flushes this layer while the guest's requests wait; a flush now shortens that wait.
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
