/**
 * Files and folders that are for their owner alone: the state folder, its content, the key file.
 *
 * A path that the owner owns but others can open is tightened, with a line in the log. A path that
 * another user could replace is refused: one with another owner, a link, one below a folder that
 * all may write to. `exposureOf` looks and changes nothing.
 */
import {
  type Stats,
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  statSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { type Logger, TorporError, systemCode } from "@torpor/std";
import { stateFiles } from "./folders.ts";

type Kind = "folder" | "file";

/** A path that others than the owner can read or change, and why. */
export interface Exposure {
  readonly path: string;
  readonly why: string;
  /** Undefined if the daemon tightens the path by itself. */
  readonly advice: string | undefined;
}

/**
 * The entries of a daemon's state folder. The socket is missing, because each daemon makes its own.
 */
const stateEntries: readonly (readonly [name: string, kind: Kind])[] = [
  [stateFiles.lock, "file"],
  [stateFiles.log, "file"],
  [stateFiles.database, "file"],
  [`${stateFiles.database}-wal`, "file"],
  [`${stateFiles.database}-shm`, "file"],
  [stateFiles.sandboxes, "folder"],
  [stateFiles.snapshots, "folder"],
  [stateFiles.disks, "folder"],
  [stateFiles.workingSets, "folder"],
];

const { O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;
const forOthers = 0o077;
const writableForAll = 0o002;
const sticky = 0o1000;

/**
 * Makes the state folder, if it does not exist, and denies all other users access to it and to what
 * an earlier daemon left in it. Deeper paths are covered by the folders that they lie in.
 * @throws storage.exposed
 */
export function claimStateFolder(path: string, log: Logger): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  refuseForeignState(path);
  tighten(path, "folder", log);
  for (const [name, kind] of stateEntries) tighten(join(path, name), kind, log);
}

/** Checks the folders above. @throws storage.exposed where every user could replace `path` */
export function refuseOpenWay(path: string): void {
  const above = exposureAbove(path);
  if (above !== undefined) throw exposed(above);
}

/** Makes the checks of `claimStateFolder`, and changes nothing. @throws storage.exposed */
export function refuseForeignState(path: string): void {
  const foreign = stateExposures(path).find(({ advice }) => advice !== undefined);
  if (foreign !== undefined) throw exposed(foreign);
}

/**
 * Lists everything in and above a state folder by which others could reach it; for `torpor doctor`.
 */
export function stateExposures(path: string): readonly Exposure[] {
  const entries = stateEntries.map(([name, kind]) => exposureOf(join(path, name), kind));
  return [exposureAbove(path), exposureOf(path, "folder"), ...entries].filter(
    (one) => one !== undefined,
  );
}

/** Looks at one path. @returns undefined if it is its owner's alone or does not exist */
export function exposureOf(path: string, kind: Kind): Exposure | undefined {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  return stat === undefined ? undefined : judge(path, kind, stat);
}

/**
 * Reads a file that only its owner may access. @returns undefined when there is none. @throws
 * storage.exposed, storage.failed
 */
export function readOwnFile(path: string, bytesMax: number, log: Logger): string | undefined {
  using undo = new DisposableStack();
  try {
    const fd = openOwn(path, "file", undo, log);
    if (fd === undefined) return undefined;
    if (fstatSync(fd).size > bytesMax)
      throw new TorporError("storage.failed", `${path} is too large`);
    return readFileSync(fd, "utf8");
  } catch (cause) {
    throw TorporError.from(cause, "storage.failed", `${path} cannot be read`);
  }
}

function tighten(path: string, kind: Kind, log: Logger): void {
  using undo = new DisposableStack();
  openOwn(path, kind, undo, log);
}

/** Judges and changes the file by one descriptor, so that nobody can replace it between the two. */
function openOwn(path: string, kind: Kind, undo: DisposableStack, log: Logger): number | undefined {
  const found = exposureOf(path, kind);
  if (found?.advice !== undefined) throw exposed(found);
  const flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | (kind === "folder" ? O_DIRECTORY : 0);
  const fd = openIfThere(path, flags);
  if (fd === undefined) return undefined;
  undo.adopt(fd, closeSync);
  const stat = fstatSync(fd);
  const exposure = judge(path, kind, stat);
  if (exposure?.advice !== undefined) throw exposed(exposure);
  if (exposure === undefined) return fd;
  fchmodSync(fd, stat.mode & 0o700);
  log.warn("tightened what others could reach; they may have read it before", {
    path,
    why: exposure.why,
  });
  return fd;
}

function openIfThere(path: string, flags: number): number | undefined {
  try {
    return openSync(path, flags);
  } catch (cause) {
    if (systemCode(cause) === "ENOENT") return undefined;
    throw cause;
  }
}

function judge(path: string, kind: Kind, stat: Stats): Exposure | undefined {
  const refuse = (why: string, advice: string): Exposure => ({ path, why, advice });
  if (stat.isSymbolicLink()) return refuse("is a link", "Name the place that it leads to instead.");
  const isKind = kind === "folder" ? stat.isDirectory() : stat.isFile();
  if (!isKind) return refuse(`is no ${kind}`, "Move it away.");
  if (stat.uid !== process.geteuid?.()) {
    const advice = "Run the daemon as that user, or give the whole folder to the daemon's user.";
    return refuse(`belongs to the user with id ${stat.uid}`, advice);
  }
  if (kind === "file" && stat.nlink > 1) {
    return refuse("has a second name", "Put a copy of it in its place.");
  }
  if ((stat.mode & forOthers) === 0) return undefined;
  return { path, why: `has mode 0${(stat.mode & 0o7777).toString(8)}`, advice: undefined };
}

/** A user who may write to a folder on the way can replace what is below it. */
function exposureAbove(path: string): Exposure | undefined {
  for (let folder = nearestFolder(dirname(path)); ; folder = dirname(folder)) {
    const { mode } = statSync(folder);
    if ((mode & writableForAll) !== 0 && (mode & sticky) === 0) {
      const advice = `Run \`chmod o-w ${folder}\`.`;
      return { path: folder, why: "may be written to by every user", advice };
    }
    if (dirname(folder) === folder) return undefined;
  }
}

function nearestFolder(path: string): string {
  try {
    return realpathSync(path);
  } catch (cause) {
    if (systemCode(cause) !== "ENOENT" || dirname(path) === path) throw cause;
    return nearestFolder(dirname(path));
  }
}

function exposed({ path, why, advice }: Exposure): TorporError {
  return new TorporError("storage.exposed", `${path} ${why}`, {
    effect: "none",
    ...(advice === undefined ? {} : { advice }),
  });
}
