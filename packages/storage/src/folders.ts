/**
 * The layout of Torpor's folders.
 *
 *     <state>/                     TORPOR_HOME, else /var/lib/torpor or ~/.local/share/torpor
 *       daemon.lock daemon.log torpor.sock torpor.sqlite
 *       sandboxes/<id>/
 *         run/<generation>/        control socket, console, VMM log: one VM run, removed with it
 *         working-set              which pages of memory its latest wake used
 *       working-sets/<id>          the same of a template or snapshot, for sandboxes made from it
 *       snapshots/ disks/          what sandboxes and templates are built on: see snapshot-store.ts
 *     sealing.key                  TORPOR_KEY_FILE, else /etc/torpor or ~/.config/torpor: see key-file.ts
 *     <cache>/                     TORPOR_CACHE, else ~/.cache/torpor of a user who has one, else
 *                                  /var/cache/torpor
 *       templates/<id>/            kernel, disk, memory image, device state, manifest
 *       vmm-<key>/                 a copy of the VMM, which the sandboxes of some templates run
 *
 * Templates are apart from the state because they can be built again; several daemons share them.
 */
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** Name of the file with the sealing keys, in the folder of the configuration. */
export const keyFileName = "sealing.key";
const systemCache = "/var/cache/torpor";
const systemWide = process.getuid?.() === 0;

/** The state folder: TORPOR_HOME, or the default of root or of this user. */
export function defaultStateFolder(env: NodeJS.ProcessEnv = process.env): string {
  return env["TORPOR_HOME"] ?? ownFolder("/var/lib/torpor", ".local/share/torpor");
}

/** The cache folder: TORPOR_CACHE, or this user's own where it has templates, or the system's. */
export function defaultCacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  return env["TORPOR_CACHE"] ?? usableCacheFolder(ownFolder(systemCache, ".cache/torpor"));
}

/**
 * Only root can fill a cache, so a user's own is of use only where somebody put templates into it.
 */
function usableCacheFolder(own: string): string {
  return systemWide || existsSync(templatesFolder(own)) ? own : systemCache;
}

/** The path of the key file: TORPOR_KEY_FILE, or the default of root or of this user. */
export function defaultKeyFile(env: NodeJS.ProcessEnv = process.env): string {
  return env["TORPOR_KEY_FILE"] ?? join(ownFolder("/etc/torpor", ".config/torpor"), keyFileName);
}

function ownFolder(systemPath: string, homePath: string): string {
  return systemWide ? systemPath : join(homedir(), homePath);
}

/** Names of the files and folders in a state folder. */
export const stateFiles = {
  lock: "daemon.lock",
  log: "daemon.log",
  /** Written when the user wants no daemon: a supervisor that waits to start one gives up. */
  down: "daemon.down",
  socket: "torpor.sock",
  database: "torpor.sqlite",
  sandboxes: "sandboxes",
  snapshots: "snapshots",
  disks: "disks",
  workingSets: "working-sets",
} as const;

/** Matches what a daemon puts into its state folder; SQLite adds files beside its own. */
export const stateEntryPattern = new RegExp(
  `^(?:${Object.values(stateFiles)
    .map((name) => RegExp.escape(name))
    .join("|")})(?:-wal|-shm|-journal)?$`,
);

/** The folder of a VMM copy is named by this and the copy's key. */
export const vmmCopyPrefix = "vmm-";

/**
 * Matches what set-up puts into the cache folder, layers by their name and key, and what the tests
 * put there.
 */
export const cacheEntryPattern =
  /^(?:[a-z]+-[0-9a-f]{16}|nested-.+|accelerator\.json|build\.lock|staging|templates)$/;

/** The folder of the published templates, each in a folder named by its id. */
export function templatesFolder(cacheFolder: string): string {
  return join(cacheFolder, "templates");
}

/** The folder of the VMM copy with this key. */
export function vmmCopyFolder(cacheFolder: string, key: string): string {
  return join(cacheFolder, `${vmmCopyPrefix}${key}`);
}

/** Paths of one sandbox, all below one folder that is removed with it. */
export class SandboxFolder {
  readonly path: string;

  constructor(stateFolder: string, sandboxId: string) {
    this.path = join(stateFolder, stateFiles.sandboxes, sandboxId);
  }

  get runs(): string {
    return join(this.path, "run");
  }

  get workingSet(): string {
    return join(this.path, "working-set");
  }

  run(generation: number): string {
    return join(this.runs, String(generation));
  }
}
