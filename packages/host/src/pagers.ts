/**
 * The pagers of this daemon's VMs: which wakes get one, how it is started and adopted, and how its
 * progress is found.
 *
 * A VM without a pager maps a file that has all of its memory. That is the template's image, shared
 * by all, or a copy of it with the layers written over it, which costs nothing where the file
 * system shares blocks. Elsewhere it costs as much as memory is large, and there a pager is the
 * better choice.
 */
import { closeSync, existsSync, openSync, statSync, unlinkSync } from "node:fs";
import { join } from "node:path";
import { tryShareBlocks } from "@torpor/native";
import {
  type PagerOptions,
  PagerProcess,
  type PrefetchMode,
  type SavedMemoryFiles,
  ServedMemory,
} from "@torpor/pager";
import { type Deadline, TorporError, ignoreFailure } from "@torpor/std";
import type { Pager, StartPager } from "@torpor/vmm";
import type { WakeRecords } from "./working-sets.ts";

const device = "/dev/userfaultfd";
/**
 * LIMIT: how long a pager waits for its VM, which is started and loaded after it: the sum of those
 * steps.
 */
const connectBudgetMs = 150_000;

/** `auto`: a pager where a wake would otherwise have to copy memory. */
export type PagerUse = "auto" | "always" | "never";

/** Which VMs get a pager, and what it brings before the guest asks for it. */
export interface PagerSettings {
  readonly use: PagerUse;
  readonly prefetch: PrefetchMode;
}

/** A pager only where it saves a copy; it prefetches the working set. */
export const defaultPagerSettings: PagerSettings = { use: "auto", prefetch: "workingSet" };

/** Starts, adopts and finds pagers, by the run folder of their VM. */
export class Pagers {
  readonly #settings: PagerSettings;
  readonly #byRun = new Map<string, PagerProcess>();
  /** Whether files on two devices can share blocks, by the pair of devices. */
  readonly #sharesBlocks = new Map<string, boolean>();

  constructor(settings: PagerSettings = defaultPagerSettings) {
    this.#settings = settings;
  }

  /**
   * Returns how to start the pager of a VM.
   * @param runFolder Must exist.
   * @returns undefined if the VM maps a file instead
   */
  starterOf(
    memory: SavedMemoryFiles,
    records: Pick<WakeRecords, "begin" | "recordPath">,
    runFolder: string,
  ): StartPager | undefined {
    if (!this.#isWanted(memory, runFolder)) return undefined;
    const { prefetch } = this.#settings;
    return async ({ socketPath, userId }, deadline) => {
      await using undo = new AsyncDisposableStack();
      const served = undo.use(await ServedMemory.open(memory));
      const pager = await PagerProcess.start(
        {
          ...{ runFolder, memory, connectBudgetMs, prefetch },
          vmSocketPath: socketPath,
          vmUserId: userId,
          // All of memory becomes resident in the end, so each fault may as well bring more of it.
          wideFaults: prefetch === "all",
          ...(prefetch === "off" ? {} : workingSetFiles(records)),
        },
        deadline,
      );
      undo.move();
      return this.#join(runFolder, pager, served);
    };
  }

  /**
   * Adopts the pager that an earlier daemon started.
   * @throws vmm.failed when it is gone; snapshot.corrupt when the files that it serves are
   *   unreadable
   */
  async adopt(runFolder: string, deadline: Deadline): Promise<Pager> {
    const pager = await PagerProcess.adopt(runFolder, deadline);
    try {
      return this.#join(runFolder, pager, await ServedMemory.open(pager.memory));
    } catch (cause) {
      pager.release();
      throw cause;
    }
  }

  /** The pager of a VM; undefined if it has none. */
  find(runFolder: string): PagerProcess | undefined {
    return this.#byRun.get(runFolder);
  }

  #isWanted({ imagePath, layers }: SavedMemoryFiles, runFolder: string): boolean {
    const { use } = this.#settings;
    if (use !== "auto") return use === "always";
    return layers.length > 0 && existsSync(device) && !this.#canShareBlocks(imagePath, runFolder);
  }

  #canShareBlocks(path: string, folder: string): boolean {
    const devices = `${statSync(path).dev} ${statSync(folder).dev}`;
    const known = this.#sharesBlocks.get(devices);
    if (known !== undefined) return known;
    const can = tryToShareBlocks(path, join(folder, "shared.img"));
    this.#sharesBlocks.set(devices, can);
    return can;
  }

  #join(runFolder: string, pager: PagerProcess, memory: ServedMemory): Pager {
    this.#byRun.set(runFolder, pager);
    const forget = async (): Promise<void> => {
      if (this.#byRun.get(runFolder) === pager) this.#byRun.delete(runFolder);
      await ignoreFailure("it was open for reading", memory[Symbol.asyncDispose]());
    };
    return {
      pid: pager.pid,
      memory,
      ended: pager.ended.then(async (end) => {
        await forget();
        return end.kind === "failed" ? reasonOf(end.error) : undefined;
      }),
      end: async (deadline) => {
        await pager.end(deadline);
      },
      release: () => {
        pager.release();
        void forget();
      },
    };
  }
}

/** Reports damage as such. Any other failure of the pager has ended its VM. */
function reasonOf(cause: TorporError): TorporError {
  const code = cause.code === "snapshot.corrupt" ? cause.code : "vmm.exited";
  return new TorporError(code, `its pager failed: ${cause.rawMessage}`, { cause });
}

function workingSetFiles({
  begin,
  recordPath,
}: Pick<WakeRecords, "begin" | "recordPath">): Pick<PagerOptions, "workingSetPath" | "recordPath"> {
  return {
    ...(begin === undefined ? {} : { workingSetPath: begin.path }),
    ...(recordPath === undefined ? {} : { recordPath }),
  };
}

function tryToShareBlocks(path: string, copyPath: string): boolean {
  using undo = new DisposableStack();
  const from = undo.adopt(openSync(path, "r"), closeSync);
  const to = undo.adopt(openSync(copyPath, "wx", 0o600), closeSync);
  unlinkSync(copyPath);
  return tryShareBlocks(from, to);
}
