/**
 * Which record of a working set a wake begins with, and where it leaves its own:
 *
 *     sandboxes/<id>/working-set   of the sandbox's latest wake that was recorded; goes with the sandbox
 *     working-sets/<id>            of a template or a snapshot, for the sandboxes that are made from it
 *
 * A wake begins with the newest of its sandbox, else of the snapshot it goes on from, else of the template.
 * A resume records its own each time, because what a sandbox uses changes; the wake of a new sandbox does
 * only where its source has no record, and leaves it to the source too.
 *
 * A record is a hint. One that is missing, damaged or of another size is done without, and none is
 * flushed: a power cut leaves a damaged one at worst. What wrote it puts it in its place by a rename, so
 * whoever reads it has it whole.
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
  /** What it goes on from; null for its template. */
  readonly snapshotId: string | null;
  /** Whether this is its first wake. */
  readonly isNew: boolean;
  /** Of its memory. */
  readonly sizeBytes: number;
}

export interface WakeRecords {
  /** Undefined where there is none that is of use. */
  readonly begin: { readonly path: string; readonly workingSet: WorkingSet } | undefined;
  /** Where the wake's own record goes; undefined when none is wanted. */
  readonly recordPath: string | undefined;
  /** Where a finished one is found by other sandboxes, too. */
  readonly sharedPath: string | undefined;
}

export class WorkingSets {
  readonly #folder: string;
  readonly #log: Logger;

  private constructor(folder: string, log: Logger) {
    this.#folder = folder;
    this.#log = log;
  }

  static async open(stateFolder: string, log: Logger): Promise<WorkingSets> {
    const folder = join(stateFolder, stateFiles.workingSets);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    return new WorkingSets(folder, log);
  }

  /** Never rejects. */
  async plan({ folder, templateId, snapshotId, isNew, sizeBytes }: Waking): Promise<WakeRecords> {
    const own = folder.workingSet;
    const ofSource = this.#pathOf(snapshotId ?? templateId);
    const paths = [...new Set([own, ofSource, this.#pathOf(templateId)])];
    const begin = await this.#firstOfUse(paths, sizeBytes);
    if (!isNew) return { begin, recordPath: own, sharedPath: undefined };
    // One that was of no use is gone by now.
    return existsSync(ofSource)
      ? { begin, recordPath: undefined, sharedPath: undefined }
      : { begin, recordPath: own, sharedPath: ofSource };
  }

  /** The wake's own record is written. Of several that come at once the first is its source's. */
  async share({ recordPath, sharedPath }: WakeRecords): Promise<void> {
    if (recordPath === undefined || sharedPath === undefined) return;
    try {
      await link(recordPath, sharedPath);
    } catch (cause) {
      if (systemCode(cause) !== "EEXIST") throw cause;
    }
  }

  /** Of templates and snapshots that are no more. */
  async remove(ids: readonly string[]): Promise<void> {
    for (const id of ids) await rm(this.#pathOf(id), { recursive: true, force: true });
  }

  /**
   * Looks through the folder for those of templates and snapshots that are no more.
   * @param areNeeded Asked after the folder is listed, so that nothing newer is ever judged.
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
