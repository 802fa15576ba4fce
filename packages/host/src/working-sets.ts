/**
 * Which recorded working set a wake starts from, and where it leaves its own record:
 *
 *     sandboxes/<id>/working-set   the sandbox's latest recorded wake; removed with the sandbox
 *     working-sets/<id>            of a template or a snapshot, for the sandboxes made from it
 *
 * A wake starts from the newest record of its sandbox, else of the snapshot it continues from, else
 * of the template. A resume records its own each time, because what a sandbox uses changes. The
 * first wake of a new sandbox records only where its source has no record, and leaves the record to
 * the source too.
 *
 * A record is a hint. A missing, damaged or wrongly sized one is ignored, and none is flushed: a
 * power cut leaves a damaged one at worst. The writer moves a finished record into place by a
 * rename, so a reader always gets a whole one.
 */
import { existsSync } from "node:fs";
import { link, mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { type WorkingSet, readWorkingSet } from "@torpor/pager";
import { type Logger, systemCode } from "@torpor/std";
import { type SandboxFolder, stateFiles } from "@torpor/storage";

/** A sandbox that is about to wake. */
export interface Waking {
  readonly folder: SandboxFolder;
  readonly templateId: string;
  /** The snapshot it continues from; null for its template. */
  readonly snapshotId: string | null;
  /** Whether this is its first wake. */
  readonly isNew: boolean;
  /** Size of its memory. */
  readonly sizeBytes: number;
}

/** The record that a wake starts from, and where it leaves its own. */
export interface WakeRecords {
  /** Undefined if there is no usable record. */
  readonly begin: { readonly path: string; readonly workingSet: WorkingSet } | undefined;
  /** Where the wake's own record goes; undefined if none is wanted. */
  readonly recordPath: string | undefined;
  /** Where other sandboxes find the finished record; undefined if it is not shared. */
  readonly sharedPath: string | undefined;
}

/** The records of working sets in the state folder. */
export class WorkingSets {
  readonly #folder: string;
  readonly #log: Logger;

  private constructor(folder: string, log: Logger) {
    this.#folder = folder;
    this.#log = log;
  }

  /** Opens the folder of records, which it creates if there is none. */
  static async open(stateFolder: string, log: Logger): Promise<WorkingSets> {
    const folder = join(stateFolder, stateFiles.workingSets);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    return new WorkingSets(folder, log);
  }

  /** Plans a wake. Removes records of no use. Never rejects. */
  async plan({ folder, templateId, snapshotId, isNew, sizeBytes }: Waking): Promise<WakeRecords> {
    const own = folder.workingSet;
    const ofSource = this.#pathOf(snapshotId ?? templateId);
    const paths = [...new Set([own, ofSource, this.#pathOf(templateId)])];
    const begin = await this.#firstOfUse(paths, sizeBytes);
    if (!isNew) return { begin, recordPath: own, sharedPath: undefined };
    // A record of no use has been removed by now.
    return existsSync(ofSource)
      ? { begin, recordPath: undefined, sharedPath: undefined }
      : { begin, recordPath: own, sharedPath: ofSource };
  }

  /**
   * Shares a wake's own record once it is written. If several are shared, the source keeps the
   * first.
   */
  async share({ recordPath, sharedPath }: WakeRecords): Promise<void> {
    if (recordPath === undefined || sharedPath === undefined) return;
    try {
      await link(recordPath, sharedPath);
    } catch (cause) {
      if (systemCode(cause) !== "EEXIST") throw cause;
    }
  }

  /** Removes the records of templates and snapshots that no longer exist. */
  async remove(ids: readonly string[]): Promise<void> {
    for (const id of ids) await rm(this.#pathOf(id), { recursive: true, force: true });
  }

  /**
   * Removes every record whose template or snapshot no longer exists.
   * @param areNeeded Called after the folder is listed, so that no newer record is judged.
   */
  async sweep(areNeeded: (ids: readonly string[]) => Promise<readonly boolean[]>): Promise<void> {
    const names = await readdir(this.#folder);
    const needed = await areNeeded(names);
    await this.remove(names.filter((_name, index) => needed[index] !== true));
  }

  #pathOf(id: string): string {
    return join(this.#folder, id);
  }

  async #firstOfUse(paths: readonly string[], sizeBytes: number): Promise<WakeRecords["begin"]> {
    for (const path of paths) {
      try {
        return { path, workingSet: readWorkingSet(path, sizeBytes) };
      } catch (cause) {
        if (systemCode(cause) === "ENOENT") continue;
        this.#log.warn("a working set is of no use, and is removed", { path, cause });
        await rm(path, { recursive: true, force: true }).catch(() => undefined);
      }
    }
    return undefined;
  }
}
