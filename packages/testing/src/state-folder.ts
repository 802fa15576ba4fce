/**
 * A state folder of its own for one test, and the proof that the test left nothing behind.
 *
 * Disposing it ends every VM below it, removes the folder, and then fails if there was anything to
 * end or to remove but the daemon's own files.
 */
import assert from "node:assert/strict";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Deadline, systemCode } from "@torpor/std";
import {
  TemplateStore,
  defaultCacheFolder,
  keyFileName,
  stateFiles,
  templatesFolder,
} from "@torpor/storage";
import { QemuDriver, type VmProcess } from "@torpor/vmm";

const endVmMs = 10_000;
/** The files that a daemon leaves when it has ended. */
const ownFiles: ReadonlySet<string> = new Set([
  stateFiles.lock,
  stateFiles.log,
  stateFiles.database,
  `${stateFiles.database}-wal`,
  `${stateFiles.database}-shm`,
  stateFiles.sandboxes,
  stateFiles.snapshots,
  stateFiles.disks,
  stateFiles.workingSets,
  // Outside of tests this file is elsewhere.
  keyFileName,
]);

/** A state folder that a test owns. */
export class StateFolder implements AsyncDisposable {
  readonly path: string;
  readonly #templates: TemplateStore;

  private constructor(path: string, cacheFolder: string) {
    this.path = path;
    this.#templates = new TemplateStore(templatesFolder(cacheFolder));
  }

  /**
   * Makes a folder.
   * @param below An existing folder; the machine's temporary one unless given.
   * @param cacheFolder The cache of the daemons that use the folder; the machine's own unless
   * given.
   */
  static async make(below = tmpdir(), cacheFolder = defaultCacheFolder()): Promise<StateFolder> {
    return new StateFolder(await mkdtemp(join(below, "torpor-test-")), cacheFolder);
  }

  get socketPath(): string {
    return join(this.path, stateFiles.socket);
  }

  get keyFile(): string {
    return join(this.path, keyFileName);
  }

  /** The processes of all VMs below the folder. */
  async vms(): Promise<readonly VmProcess[]> {
    const finder = new QemuDriver({ accelerator: "tcg" });
    return await finder.processesBelow(join(this.path, stateFiles.sandboxes));
  }

  /** Every file of one sandbox, relative to its folder, sorted. */
  async filesOf(sandboxId: string): Promise<readonly string[]> {
    const folder = join(this.path, stateFiles.sandboxes, sandboxId);
    return (await listAll(folder)).sort();
  }

  snapshotFolder(snapshotId: string): string {
    return join(this.path, stateFiles.snapshots, snapshotId);
  }

  /** Names of snapshots and disk layers, needed or not, sorted. */
  async layers(): Promise<readonly string[]> {
    const snapshots = await listOrNone(join(this.path, stateFiles.snapshots));
    const disks = await listOrNone(join(this.path, stateFiles.disks));
    return [...snapshots, ...disks].sort();
  }

  /** Ids of templates and snapshots with a recorded working set, sorted. */
  async workingSets(): Promise<readonly string[]> {
    return [...(await listOrNone(join(this.path, stateFiles.workingSets)))].sort();
  }

  /** Folders of sandboxes, whether a daemon knows them or not. */
  async sandboxIds(): Promise<readonly string[]> {
    return await listOrNone(join(this.path, stateFiles.sandboxes));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const vms = await this.vms();
    const sandboxes = await this.sandboxIds();
    const layers = await this.layers();
    const templateIds = await this.#templates.ids();
    const records = (await this.workingSets()).filter((id) => !templateIds.includes(id));
    const strangers = (await listOrNone(this.path)).filter((name) => !ownFiles.has(name));
    for (const vm of vms) await vm.end(Deadline.after(endVmMs, "ending what a test left"));
    await rm(this.path, { recursive: true, force: true });
    assert.deepEqual(
      { vms: vms.map(({ runFolder }) => runFolder), sandboxes, layers, records, strangers },
      { vms: [], sandboxes: [], layers: [], records: [], strangers: [] },
      "the test left something behind",
    );
  }
}

async function listAll(folder: string): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.isDirectory())
      found.push(join(entry.parentPath, entry.name).slice(folder.length + 1));
  }
  return found;
}

async function listOrNone(folder: string): Promise<readonly string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    if (systemCode(error) === "ENOENT") return [];
    throw error;
  }
}
