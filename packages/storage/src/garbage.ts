/**
 * Finds which snapshots and disk layers are unused, without looking at the others.
 *
 * Users hold ids, and release them. A collection looks once at each id whose last hold was
 * released, and at the layers below it:
 *
 *     held                               stays; looked at again when it is released
 *     a held snapshot is built on it     stays; looked at again when that snapshot is released
 *     else                               its files are removed
 *
 * So a removal costs what it removes, however much else there is. Released ids are known in memory
 * only: the first collection of a process lists both folders and looks at everything that nobody
 * holds.
 *
 * A snapshot that is added to the ledger during a search was built on a held one, or on no old
 * layer at all. It counts from the moment it is in the ledger, so a search that began before it
 * begins again.
 */
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { LayerUse, SnapshotLedger } from "./snapshot-ledger.ts";

/** Ends the name of a snapshot's folder until it is published. */
export const stagedSuffix = ".staged";
/** Ends the name of a disk layer's file, after its id. */
export const diskSuffix = ".qcow2";
const stagedPattern = /\.staged$/;
/** LIMIT: ids in one query to the ledger; the process does its other work between two. */
const idsAtOnce = 256;
/**
 * LIMIT: snapshots in one insert, each with some 270 layers at worst: SQLite takes 32,766 values at
 * once.
 */
const notedAtOnce = 32;

/** The folders to collect in, and where their contents are known from. */
export interface GarbageOptions {
  readonly snapshotsFolder: string;
  readonly disksFolder: string;
  readonly ledger: SnapshotLedger;
  /** The layers that a snapshot is built on, from its manifest. @throws snapshot.corrupt */
  readonly usesOf: (snapshotId: string) => Promise<readonly LayerUse[]>;
}

/** Counts the holds on snapshots and disk layers, and removes what no hold leads to. */
export class Garbage {
  onLetGo: (() => void) | undefined;
  readonly #options: GarbageOptions;
  readonly #holds = new Map<string, number>();
  /** Ids that nobody holds any more, and that no collection has looked at since. */
  #letGo = new Set<string>();
  /** How many snapshots were added to the ledger. */
  #notes = 0;
  #hasListed = false;
  #collecting: Promise<unknown> = Promise.resolve();

  constructor(options: GarbageOptions) {
    this.#options = options;
  }

  hold(ids: readonly string[]): void {
    for (const id of ids) this.#holds.set(id, (this.#holds.get(id) ?? 0) + 1);
  }

  isHeld(id: string): boolean {
    return this.#holds.has(id);
  }

  /** The ledger has one more snapshot: a search that is under way begins again. */
  noted(): void {
    this.#notes += 1;
  }

  /**
   * Garbage-collects, after the collection before it has ended. @returns ids that were looked at
   * and not held
   */
  async collect(): Promise<readonly string[]> {
    const work = this.#collecting.then(() => this.#collect());
    this.#collecting = work.catch(() => undefined);
    return await work;
  }

  /** Undoes one `hold` of the same ids. */
  letGo(ids: readonly string[]): void {
    for (const id of ids) {
      const left = (this.#holds.get(id) ?? 1) - 1;
      if (left > 0) this.#holds.set(id, left);
      else {
        this.#holds.delete(id);
        this.#letGo.add(id);
      }
    }
    if (this.#letGo.size > 0) this.onLetGo?.();
  }

  async #collect(): Promise<readonly string[]> {
    if (!this.#hasListed) await this.#list();
    this.#hasListed = true;
    const looked: string[] = [];
    while (this.#letGo.size > 0) {
      const some = [...this.#letGo].slice(0, idsAtOnce);
      for (const id of some) this.#letGo.delete(id);
      await nextTurn();
      try {
        looked.push(...(await this.#lookAt(some)));
      } catch (cause) {
        for (const id of some) this.#letGo.add(id);
        throw cause;
      }
    }
    return looked;
  }

  /** Removes the files of those that nothing uses. @returns those that nobody holds */
  async #lookAt(ids: readonly string[]): Promise<readonly string[]> {
    const { ledger } = this.#options;
    const free = ids.filter((id) => !this.isHeld(id));
    if (free.length === 0) return [];
    const below = await ledger.layersOf(free);
    for (const id of await this.#unused([...new Set([...free, ...below])])) {
      await this.#removeFiles(id);
    }
    // ORDER: after the files, which these rows lead to if this process ends in between.
    await ledger.remove(free);
    return free;
  }

  /** Selects the ids that are not held and that no held snapshot is built on. */
  async #unused(ids: readonly string[]): Promise<readonly string[]> {
    for (;;) {
      const notesBefore = this.#notes;
      const used = await this.#used(ids);
      // ORDER: nothing is awaited from here to the answer, or a snapshot could be noted unseen.
      if (notesBefore === this.#notes) {
        return ids.filter((id) => !this.isHeld(id) && !used.has(id));
      }
    }
  }

  /**
   * Selects the ids that held snapshots are built on. A family may share a layer by the thousand:
   * its rows are read only up to the page with the first held snapshot.
   */
  async #used(ids: readonly string[]): Promise<ReadonlySet<string>> {
    const used = new Set<string>();
    const asked = ids.filter((id) => !this.isHeld(id));
    if (asked.length === 0) return used;
    let page = await this.#options.ledger.usersOf(asked, undefined);
    for (let last = page.at(-1); last !== undefined; last = page.at(-1)) {
      for (const { layerId, snapshotId } of page) if (this.isHeld(snapshotId)) used.add(layerId);
      const { layerId } = last;
      page = await this.#options.ledger.usersOf(asked, used.has(layerId) ? { layerId } : last);
    }
    return used;
  }

  async #removeFiles(id: string): Promise<void> {
    if (this.isHeld(id)) return; // its new holder will find that it does not fit
    for (const path of this.#pathsOf(id)) await rm(path, { recursive: true, force: true });
  }

  #pathsOf(id: string): readonly string[] {
    const { snapshotsFolder, disksFolder } = this.#options;
    const folder = join(snapshotsFolder, id);
    return [folder, `${folder}${stagedSuffix}`, join(disksFolder, `${id}${diskSuffix}`)];
  }

  /**
   * Runs once in a process: marks as released everything that is on disk or in the ledger and that
   * nobody holds; and adds to the ledger what an older version, which kept none, has published.
   */
  async #list(): Promise<void> {
    const { snapshotsFolder, disksFolder, ledger } = this.#options;
    const noted = new Set(await ledger.snapshotIds());
    const snapshots = await readdir(snapshotsFolder);
    const disks = await readdir(disksFolder);
    await this.#noteAll(snapshots.filter((id) => !noted.has(id) && this.isHeld(id)));
    const diskIds = disks.map((name) => name.slice(0, -diskSuffix.length));
    for (const name of [...snapshots, ...diskIds, ...noted]) {
      if (!this.isHeld(name)) this.#letGo.add(name.replace(stagedPattern, ""));
    }
  }

  /** Adds a few at a time: each insert is flushed to disk, and there may be thousands. */
  async #noteAll(snapshotIds: readonly string[]): Promise<void> {
    for (let first = 0; first < snapshotIds.length; first += notedAtOnce) {
      const uses: LayerUse[] = [];
      for (const id of snapshotIds.slice(first, first + notedAtOnce)) {
        await nextTurn();
        uses.push(...(await this.#options.usesOf(id)));
      }
      await this.#options.ledger.add(uses);
    }
  }
}
