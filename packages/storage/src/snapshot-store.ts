/**
 * All snapshots and disk layers of a state folder, and the holds that keep them.
 *
 *     snapshots/<id>/   device.state, a memory layer, manifest.json: published whole or not at all
 *     disks/<id>.qcow2  a disk layer, sealed once a snapshot lists it
 *
 * Both are written once and may be shared: a snapshot names the memory layers and disk layers it is
 * built on, its own last, and so do its forks. Users hold what they use by its id: a sandbox's row
 * holds what it names, an operation what it makes or reads. Users only release. `collect` removes
 * what no hold and no held snapshot leads to; garbage.ts decides that.
 *
 * INVARIANT: at every instant, also of a power cut, everything that a published snapshot names is
 * whole.
 */
import { access, link, mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { flush, flushFolder, renameDurably } from "@torpor/std";
import { stateFiles } from "./folders.ts";
import { Garbage, diskSuffix, stagedSuffix } from "./garbage.ts";
import {
  type SavedDiskLayer,
  type SavedMemoryLayer,
  type SnapshotManifest,
  readSnapshotManifest,
  replaceManifest,
  snapshotFormat,
  writeManifest,
} from "./manifest.ts";
import type { StackedLayer } from "./memory-stack.ts";
import type { Sealer } from "./sealing.ts";
import type { LayerUse, SnapshotLedger } from "./snapshot-ledger.ts";

/** Names within a snapshot's folder that the VMM packages write. */
export const snapshotFiles = { deviceState: "device.state" } as const;

/** A snapshot in the making. */
export interface StagedSnapshot extends AsyncDisposable {
  readonly path: string;
  /** Publishes the snapshot; from here on it survives a crash. */
  publish(manifest: SnapshotManifest): Promise<void>;
}

/** Reads, publishes and garbage-collects the snapshots and disk layers of one state folder. */
export class SnapshotStore {
  readonly #snapshots: string;
  readonly #disks: string;
  readonly #sealer: Sealer;
  readonly #ledger: SnapshotLedger;
  readonly #garbage: Garbage;

  private constructor(stateFolder: string, sealer: Sealer, ledger: SnapshotLedger) {
    this.#sealer = sealer;
    this.#snapshots = join(stateFolder, stateFiles.snapshots);
    this.#disks = join(stateFolder, stateFiles.disks);
    this.#ledger = ledger;
    this.#garbage = new Garbage({
      snapshotsFolder: this.#snapshots,
      disksFolder: this.#disks,
      ledger,
      usesOf: async (snapshotId) => usesOf(await this.read(snapshotId)),
    });
  }

  /** Opens the store, and makes its folders. @param sealer Seals the host keys in manifests. */
  static async open(
    stateFolder: string,
    sealer: Sealer,
    ledger: SnapshotLedger,
  ): Promise<SnapshotStore> {
    const store = new SnapshotStore(stateFolder, sealer, ledger);
    await mkdir(store.#snapshots, { recursive: true, mode: 0o700 });
    await mkdir(store.#disks, { recursive: true, mode: 0o700 });
    return store;
  }

  /** The folder to measure free space in. */
  get path(): string {
    return this.#snapshots;
  }

  folder(snapshotId: string): string {
    return join(this.#snapshots, snapshotId);
  }

  /** Pairs memory layers with the folders that hold them. */
  stacked(layers: readonly SavedMemoryLayer[]): readonly StackedLayer[] {
    return layers.map(({ snapshotId, digest }) => ({ folder: this.folder(snapshotId), digest }));
  }

  deviceStatePath(snapshotId: string): string {
    return join(this.folder(snapshotId), snapshotFiles.deviceState);
  }

  diskPath(layerId: string): string {
    return join(this.#disks, `${layerId}${diskSuffix}`);
  }

  /**
   * Reads a snapshot's manifest and opens its host key. @throws snapshot.corrupt,
   * snapshot.incompatible, secrets.locked, secrets.damaged
   */
  async read(snapshotId: string): Promise<SnapshotManifest> {
    const stored = await readSnapshotManifest(this.folder(snapshotId));
    // A snapshot that a user restored from a copy of an earlier version is not sealed.
    if (stored.format !== snapshotFormat) return { ...stored, format: snapshotFormat };
    return { ...stored, hostKey: this.#sealer.open(stored.hostKey, hostKeyPlace(snapshotId)) };
  }

  async has(snapshotId: string): Promise<boolean> {
    return await access(this.folder(snapshotId)).then(
      () => true,
      () => false,
    );
  }

  /**
   * Makes a new folder to write a snapshot into. Disposing it leaves no trace, not even of a
   * `publish` that failed half-way: nothing may later find an abandoned snapshot.
   */
  async stage(snapshotId: string): Promise<StagedSnapshot> {
    const path = `${this.folder(snapshotId)}${stagedSuffix}`;
    await mkdir(path, { mode: 0o700 });
    return {
      path,
      publish: async (manifest) => {
        // ORDER: nothing may find a snapshot whose layers are not in the ledger.
        await Promise.all([
          this.#note(manifest),
          writeManifest(path, sealed(manifest, this.#sealer)).then(() => flushFolder(path)),
        ]);
        // ORDER: the maker of a disk layer has flushed its content; its name is flushed before a
        // manifest names it.
        await flush(this.#disks);
        await renameDurably(path, this.folder(snapshotId));
      },
      [Symbol.asyncDispose]: async () => {
        await rm(path, { recursive: true, force: true });
        await rm(this.folder(snapshotId), { recursive: true, force: true });
      },
    };
  }

  /**
   * Makes another snapshot of the same instant, with a life of its own; it shares what it can.
   * @param disk Layers with the same content as the snapshot's own, to use in place of those.
   */
  async copy(
    snapshotId: string,
    copyId: string,
    disk?: readonly SavedDiskLayer[],
  ): Promise<SnapshotManifest> {
    const manifest = await this.read(snapshotId);
    const copied = { ...manifest, snapshotId: copyId, disk: disk ?? manifest.disk };
    await using undo = new AsyncDisposableStack();
    const staged = undo.use(await this.stage(copyId));
    await link(this.deviceStatePath(snapshotId), join(staged.path, snapshotFiles.deviceState));
    await staged.publish(copied);
    undo.move();
    return copied;
  }

  /**
   * Keeps these, and what they are built on, from being collected until disposed; they may not
   * exist yet.
   */
  keep(...ids: readonly string[]): Disposable {
    this.hold(ids);
    let isHeld = true;
    return {
      [Symbol.dispose]: () => {
        if (isHeld) this.letGo(ids);
        isHeld = false;
      },
    };
  }

  /**
   * Holds like `keep`, until `letGo` of the same ids. For sandboxes' rows, which are many and have
   * no end of their own.
   */
  hold(ids: readonly string[]): void {
    this.#garbage.hold(ids);
  }

  letGo(ids: readonly string[]): void {
    this.#garbage.letGo(ids);
  }

  isKept(id: string): boolean {
    return this.#garbage.isHeld(id);
  }

  /** Sets the one listener that is called each time that something may have become garbage. */
  onLetGo(listener: () => void): void {
    this.#garbage.onLetGo = listener;
  }

  /**
   * Removes what was released since the last call and what nothing leads to any more. The first
   * call of a process looks through both folders, for what an earlier process left, so it must come
   * after all rows hold what they name. Safe at any time and after any crash.
   * @returns the ids that are no longer held: all that could be removed of each is
   * @throws storage.failed; snapshot.corrupt when an older version published a snapshot that is
   * held and cannot be read: its needs are unknown, so nothing is removed. The next call retries.
   */
  async collect(): Promise<readonly string[]> {
    return await this.#garbage.collect();
  }

  async #note(manifest: SnapshotManifest): Promise<void> {
    await this.#ledger.add(usesOf(manifest));
    this.#garbage.noted();
  }
}

function hostKeyPlace(snapshotId: string): string {
  return `the snapshot ${snapshotId}`;
}

/** The memory layers, the snapshot's own among them, and the disk layers. */
function usesOf({ snapshotId, memory, disk }: SnapshotManifest): readonly LayerUse[] {
  const memoryIds = memory.kind === "layers" ? memory.layers.map((one) => one.snapshotId) : [];
  const layerIds = [...memoryIds, ...disk.map(({ layerId }) => layerId)];
  return layerIds.map((layerId) => ({ snapshotId, layerId }));
}

/**
 * Seals the host keys that an earlier version left in plain. Safe to repeat.
 * @returns ids of snapshots that cannot be read, and stay as they are
 */
export async function sealSnapshots(
  stateFolder: string,
  sealer: Sealer,
): Promise<readonly string[]> {
  const folder = join(stateFolder, stateFiles.snapshots);
  const unread: string[] = [];
  for (const id of await readdir(folder).catch(() => [])) {
    if (id.endsWith(stagedSuffix)) continue;
    const path = join(folder, id);
    const stored = await readSnapshotManifest(path).catch(() => undefined);
    if (stored === undefined) unread.push(id);
    else if (stored.format !== snapshotFormat) {
      await replaceManifest(path, sealed({ ...stored, format: snapshotFormat }, sealer));
    }
  }
  return unread;
}

function sealed(manifest: SnapshotManifest, sealer: Sealer): SnapshotManifest {
  const { hostKey, snapshotId } = manifest;
  return { ...manifest, hostKey: sealer.seal(hostKey, hostKeyPlace(snapshotId)) };
}
