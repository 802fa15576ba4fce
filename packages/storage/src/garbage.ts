/**
 * Which snapshots and disk layers are of no use any more, found without looking at the others.
 *
 * Users hold ids, and let go of them. What is let go of for good is looked at once, with what it stood upon:
 *
 *     held                               stays; looked at again when it is let go of
 *     a held snapshot stands upon it     stays; looked at again when that snapshot is let go of
 *     else                               its files are removed
 *
 * So a removal costs what it removes, however much else there is. What was let go of is only known in
 * memory: the first collection of a process lists both folders and looks at all that nobody holds.
 *
 * A snapshot that is noted while it is looked for was made upon one that is held, or it would stand upon
 * nothing old. It counts from the moment it is noted, so a search that began before begins again.
 */
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { LayerUse, SnapshotLedger } from "./snapshot-ledger.ts";

export const stagedSuffix = ".staged";
export const diskSuffix = ".qcow2";
const stagedPattern = /\.staged$/;
/** LIMIT: of ids in one question to the ledger; what else the process has to do comes in between. */
const idsAtOnce = 256;
/** LIMIT: of snapshots in one note, each with some 270 layers at worst: SQLite takes 32,766 values at once. */
const notedAtOnce = 32;

export interface GarbageOptions {
  readonly snapshotsFolder: string;
  readonly disksFolder: string;
  readonly ledger: SnapshotLedger;
  /** Read from the manifest. @throws snapshot.corrupt */
  readonly usesOf: (snapshotId: string) => Promise<readonly LayerUse[]>;
}

export class Garbage {
  onLetGo: (() => void) | undefined;
  readonly #options: GarbageOptions;
  readonly #holds = new Map<string, number>();
  /** What nobody holds any more, and nobody has looked at since. */
  #letGo = new Set<string>();
  /** How many snapshots were noted. */
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

  /** The ledger names one more snapshot. */
  noted(): void {
    this.#notes += 1;
  }

  /** One collection after the other. */
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

  /** @returns those that nobody holds */
  async #lookAt(ids: readonly string[]): Promise<readonly string[]> {
    const { ledger } = this.#options;
    const free = ids.filter((id) => !this.isHeld(id));
    if (free.length === 0) return [];
    const below = await ledger.layersOf(free);
    for (const id of await this.#unused([...new Set([...free, ...below])])) {
      await this.#removeFiles(id);
    }
    // ORDER: after the files, which are found by these if this process ends in between.
    await ledger.remove(free);
    return free;
  }

  /** Of these, what is not held and no held snapshot stands upon. */
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
   * Of these, what held snapshots stand upon. A family may share a layer by the thousand: no more of it is
   * read than the page with the first that is held.
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
    if (this.isHeld(id)) return; // by somebody who is about to find that it is not what they want
    for (const path of this.#pathsOf(id)) await rm(path, { recursive: true, force: true });
  }

  #pathsOf(id: string): readonly string[] {
    const { snapshotsFolder, disksFolder } = this.#options;
    const folder = join(snapshotsFolder, id);
    return [folder, `${folder}${stagedSuffix}`, join(disksFolder, `${id}${diskSuffix}`)];
  }

  /**
   * Once in a process: lets go of all that lies there or is noted, and that nobody holds; and notes what
   * an older version has published, which noted nothing.
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

  /** Some at a time: each note is flushed to disk, and there may be thousands. */
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
