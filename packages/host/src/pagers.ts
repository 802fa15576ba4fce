/**
 * The pagers of this daemon's VMs: which wakes have one, how it is started and found again, and whom to
 * ask how far it is.
 *
 * A VM without one maps a file that has all of its memory. That is the template's image, shared by all,
 * or a copy of it with the layers written over it, which costs nothing where the file system shares
 * blocks. Elsewhere it costs as much as memory is large, and there a pager is the better choice.
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
/** LIMIT: how long a pager waits for its VM, which is started and loaded after it; all of those steps. */
const connectBudgetMs = 150_000;

/** `auto`: where a wake would have to copy memory otherwise. */
export type PagerUse = "auto" | "always" | "never";

export interface PagerSettings {
  readonly use: PagerUse;
  readonly prefetch: PrefetchMode;
}

export const defaultPagerSettings: PagerSettings = { use: "auto", prefetch: "workingSet" };

export class Pagers {
  readonly #settings: PagerSettings;
  readonly #byRun = new Map<string, PagerProcess>();
  /** By the devices of both. */
  readonly #sharesBlocks = new Map<string, boolean>();

  constructor(settings: PagerSettings = defaultPagerSettings) {
    this.#settings = settings;
  }

  /** @param runFolder Exists. @returns undefined where the VM is to have a file. */
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
          // What is made resident in the end may as well come at once.
          wideFaults: prefetch === "all",
          ...(prefetch === "off" ? {} : workingSetFiles(records)),
        },
        deadline,
      );
      undo.move();
      return this.#join(runFolder, pager, served);
    };
  }

  /** @throws vmm.failed when it is gone; snapshot.corrupt when what it serves cannot be read any more */
  async adopt(runFolder: string, deadline: Deadline): Promise<Pager> {
    const pager = await PagerProcess.adopt(runFolder, deadline);
    try {
      return this.#join(runFolder, pager, await ServedMemory.open(pager.memory));
    } catch (cause) {
      pager.release();
      throw cause;
    }
  }

  /** Of a VM that has one. */
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

/** Damage is told as such; whatever else befell the pager, its VM has ended of it. */
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
