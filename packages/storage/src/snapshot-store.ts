/**
 * All snapshots and disk layers of a state folder, and what keeps them.
 *
 *     snapshots/<id>/   device.state, a memory layer, manifest.json: published whole or not at all
 *     disks/<id>.qcow2  a disk layer, sealed once a snapshot lists it
 *
 * Both are written once and may be shared: a snapshot names the memory layers and disk layers it stands
 * upon, its own last, and so do its forks. Nothing is removed by whoever stops using it; `collect`
 * removes what nothing leads to.
 *
 * INVARIANT: at every instant, also of a power cut, what a published snapshot names is whole.
 */
import { access, link, mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { flush, flushFolder, renameDurably } from "@torpor/std";
import { stateFiles } from "./folders.ts";
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

const stagedSuffix = ".staged";
const diskSuffix = ".qcow2";
export const snapshotFiles = { deviceState: "device.state" } as const;

export interface StagedSnapshot extends AsyncDisposable {
  readonly path: string;
  /** From here on it survives. */
  publish(manifest: SnapshotManifest): Promise<void>;
}

/** What somebody needs: ids of snapshots and of disk layers. */
export interface Needs {
  readonly snapshots: readonly string[];
  readonly disks: readonly string[];
}

export class SnapshotStore {
  readonly #snapshots: string;
  readonly #disks: string;
  readonly #sealer: Sealer;
  /** Ids that are being made or read, and how often; no record speaks for them yet. */
  readonly #kept = new Map<string, number>();
  /** What published snapshots name; they never change. */
  readonly #names = new Map<string, Needs>();
  #collecting: Promise<unknown> = Promise.resolve();

  private constructor(stateFolder: string, sealer: Sealer) {
    this.#sealer = sealer;
    this.#snapshots = join(stateFolder, stateFiles.snapshots);
    this.#disks = join(stateFolder, stateFiles.disks);
  }

  /** @param sealer For the host keys in manifests. */
  static async open(stateFolder: string, sealer: Sealer): Promise<SnapshotStore> {
    const store = new SnapshotStore(stateFolder, sealer);
    await mkdir(store.#snapshots, { recursive: true, mode: 0o700 });
    await mkdir(store.#disks, { recursive: true, mode: 0o700 });
    return store;
  }

  /** For questions about free space. */
  get path(): string {
    return this.#snapshots;
  }

  folder(snapshotId: string): string {
    return join(this.#snapshots, snapshotId);
  }

  /** Memory layers with the folders that hold them. */
  stacked(layers: readonly SavedMemoryLayer[]): readonly StackedLayer[] {
    return layers.map(({ snapshotId, digest }) => ({ folder: this.folder(snapshotId), digest }));
  }

  deviceStatePath(snapshotId: string): string {
    return join(this.folder(snapshotId), snapshotFiles.deviceState);
  }

  diskPath(layerId: string): string {
    return join(this.#disks, `${layerId}${diskSuffix}`);
  }

  /** @throws snapshot.corrupt, snapshot.incompatible, secrets.locked, secrets.damaged */
  async read(snapshotId: string): Promise<SnapshotManifest> {
    const stored = await readSnapshotManifest(this.folder(snapshotId));
    // One that a user put back from a copy of an earlier version is not sealed.
    if (stored.format !== snapshotFormat) return { ...stored, format: snapshotFormat };
    return { ...stored, hostKey: this.#sealer.open(stored.hostKey, hostKeyPlace(snapshotId)) };
  }

  /**
   * Seals what an earlier version left in plain. Safe to repeat.
   * @returns ids of snapshots that cannot be read, and stay as they are
   */
  async sealAll(): Promise<readonly string[]> {
    const unread: string[] = [];
    for (const id of await readdir(this.#snapshots)) {
      if (id.endsWith(stagedSuffix)) continue;
      const stored = await readSnapshotManifest(this.folder(id)).catch(() => undefined);
      if (stored === undefined) unread.push(id);
      else if (stored.format !== snapshotFormat) {
        await replaceManifest(this.folder(id), this.#sealed({ ...stored, format: snapshotFormat }));
      }
    }
    return unread;
  }

  #sealed(manifest: SnapshotManifest): SnapshotManifest {
    const { hostKey, snapshotId } = manifest;
    return { ...manifest, hostKey: this.#sealer.seal(hostKey, hostKeyPlace(snapshotId)) };
  }

  async has(snapshotId: string): Promise<boolean> {
    return await access(this.folder(snapshotId)).then(
      () => true,
      () => false,
    );
  }

  /**
   * A new folder to write a snapshot into. Disposing it leaves no trace, not even of a `publish` that
   * failed half-way: whoever goes on must never find a snapshot that was given up.
   */
  async stage(snapshotId: string): Promise<StagedSnapshot> {
    const path = `${this.folder(snapshotId)}${stagedSuffix}`;
    await mkdir(path, { mode: 0o700 });
    return {
      path,
      publish: async (manifest) => {
        await writeManifest(path, this.#sealed(manifest));
        await flushFolder(path);
        // ORDER: whoever made a disk layer has flushed its content; its name is flushed before it is named.
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
   * Another snapshot of the same instant, to be kept and removed by itself; it shares what it can.
   * @param disk Layers that say the same as its own, in place of those.
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

  /** Keeps these, and what they stand upon, from being collected until disposed; they may not exist yet. */
  keep(...ids: readonly string[]): Disposable {
    for (const id of ids) this.#kept.set(id, (this.#kept.get(id) ?? 0) + 1);
    return {
      [Symbol.dispose]: () => {
        for (const id of ids) {
          const left = (this.#kept.get(id) ?? 1) - 1;
          if (left === 0) this.#kept.delete(id);
          else this.#kept.set(id, left);
        }
      },
    };
  }

  /**
   * Removes what neither `needs` leads to nor anybody keeps. Safe at any time and after any crash: what
   * is in the making is kept, and what is half made belongs to nobody. When a snapshot that is needed
   * cannot be read, nothing is removed, because nobody knows what it needs.
   * @param needs Asked after the folders are listed, so that nothing newer is ever judged.
   * @returns the names of what was removed.
   * @throws snapshot.corrupt, storage.failed
   */
  async collect(needs: () => Needs): Promise<readonly string[]> {
    const work = this.#collecting.then(() => this.#collect(needs));
    this.#collecting = work.catch(() => undefined);
    return await work;
  }

  async #collect(needs: () => Needs): Promise<readonly string[]> {
    const snapshots = await readdir(this.#snapshots);
    const disks = await readdir(this.#disks);
    // ORDER: both in one turn. What somebody keeps now a record may name a moment later, and is then no
    // longer kept: asked at two times, each could say that the other speaks for it.
    const kept = [...this.#kept.keys()];
    const needed = needs();
    const live = await this.#reach(
      needed,
      kept.filter((id) => snapshots.includes(id)),
    );
    for (const id of kept) live.add(id);
    const isLive = (name: string, suffix: string): boolean => {
      const id = name.endsWith(suffix) ? name.slice(0, -suffix.length) : name;
      return live.has(id) || this.#kept.has(id);
    };
    const dead = [
      ...snapshots
        .filter((one) => !isLive(one, stagedSuffix))
        .map((one) => join(this.#snapshots, one)),
      ...disks.filter((one) => !isLive(one, diskSuffix)).map((one) => join(this.#disks, one)),
    ];
    for (const path of dead) await rm(path, { recursive: true, force: true });
    for (const id of this.#names.keys()) if (!live.has(id)) this.#names.delete(id);
    return dead;
  }

  /** @param kept Published snapshots that somebody uses; one that is given up meanwhile needs nothing. */
  async #reach({ snapshots, disks }: Needs, kept: readonly string[]): Promise<Set<string>> {
    const live = new Set([...snapshots, ...disks]);
    for (const id of new Set([...snapshots, ...kept])) {
      const names = await this.#namesOf(id).catch(async (cause: unknown) => {
        if (snapshots.includes(id) || (await this.has(id))) throw cause;
        return { snapshots: [], disks: [] };
      });
      for (const one of [...names.snapshots, ...names.disks]) live.add(one);
    }
    return live;
  }

  async #namesOf(snapshotId: string): Promise<Needs> {
    const known = this.#names.get(snapshotId);
    if (known !== undefined) return known;
    const { memory, disk } = await this.read(snapshotId);
    const names = {
      snapshots: memory.kind === "layers" ? memory.layers.map((layer) => layer.snapshotId) : [],
      disks: disk.map((layer) => layer.layerId),
    };
    this.#names.set(snapshotId, names);
    return names;
  }
}

function hostKeyPlace(snapshotId: string): string {
  return `the snapshot ${snapshotId}`;
}
