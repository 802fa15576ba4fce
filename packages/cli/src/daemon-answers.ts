/**
 * The daemon's answers, and how the CLI parses them. A parser throws argument.invalid with the name
 * of the field.
 *
 * COMPAT: fields that an older daemon does not send have a default, so that `torpor down` can end
 * it.
 */
import {
  type StepTiming,
  TorporError,
  optional,
  parseBoolean,
  parseInteger,
  parseObject,
  parseOneOf,
  parseString,
  parseStringMap,
  shownValue,
} from "@torpor/std";

const sandboxStates = [
  "creating",
  "running",
  "stalled",
  "checkpointing",
  "pausing",
  "paused",
  "resuming",
  "removing",
  "failed",
] as const;
/** The state of a sandbox. */
export type SandboxStateName = (typeof sandboxStates)[number];

/** The daemon, as it describes itself. */
export interface DaemonInfo {
  readonly pid: number;
  readonly version: string;
  readonly startedAtMs: number;
  readonly stateFolder: string;
  readonly accelerator: string;
  readonly url: string;
  /**
   * The part after `<port>-<id>.` of the address of a server in a sandbox, with the port; null if
   * the daemon does not say.
   */
  readonly servedDomain: string | null;
  readonly templates: readonly string[];
  readonly sandboxCount: number;
  /** The variables that the daemon was started with; null if it does not say. */
  readonly settings: Readonly<Record<string, string>> | null;
}

/** A snapshot that a sandbox can be woken from. */
export interface SavedInfo {
  readonly id: string;
  readonly generation: number;
  readonly createdAtMs: number;
  /** Size of the newest layer on disk. */
  readonly memoryBytes: number;
  /** 0 when memory is saved whole, apart from the template's. */
  readonly memoryLayers: number;
  /** Size of all layers on disk. */
  readonly diskBytes: number;
  readonly diskLayers: number;
}

/** The pager of a VM whose memory is loaded page by page, and its progress. */
export interface PagerInfo {
  readonly pid: number;
  /** Null when the pager did not answer. */
  readonly progress: PagerProgress | null;
}

const prefetchPhases = ["workingSet", "newestLayer", "rest", "done"] as const;

/** How far a pager is. */
export interface PagerProgress {
  /** The pages that the pager fetches ahead at present. */
  readonly phase: (typeof prefetchPhases)[number];
  /** Pages that are loaded, of `memoryPages` in all. */
  readonly presentPages: number;
  readonly memoryPages: number;
  readonly faults: number;
  readonly prefetchedPages: number;
  /** The size of the working set that the wake started from. */
  readonly workingSetPages: number;
  /** A problem that does no harm; usually empty. */
  readonly remark: string;
}

/** Why a sandbox still runs although its time has passed. */
export interface MissedDeadline {
  readonly rule: string;
  readonly atMs: number;
  readonly message: string;
}

/** The daemon's action when a sandbox's timeout has passed. */
export type OnTimeout = "kill" | "pause";

/** A sandbox as `torpor info` shows it. */
export interface SandboxInfo {
  readonly id: string;
  readonly template: string;
  readonly templateId: string;
  readonly state: SandboxStateName;
  /** Why the sandbox failed or is stalled; null in every other state. */
  readonly reason: string | null;
  /** The last lines of console and VMM, of a VM that ended by itself. */
  readonly lastLines: readonly string[];
  readonly generation: number;
  /** The process of the VM on this machine; null while there is none. */
  readonly pid: number | null;
  /** Null for a VM without a pager. */
  readonly pager: PagerInfo | null;
  readonly createdAtMs: number;
  readonly startedAtMs: number | null;
  readonly metadata: Readonly<Record<string, string>>;
  readonly onTimeout: OnTimeout;
  /** Null if the sandbox has no timeout, or does not run. */
  readonly endAtMs: number | null;
  /** The rest of the timeout, while the sandbox does not run. */
  readonly leftMs: number | null;
  readonly idleTimeoutMs: number | null;
  readonly maxRunMs: number | null;
  readonly missedDeadline: MissedDeadline | null;
  readonly snapshot: SavedInfo | null;
  /** Whether there is a snapshot before the newest one. */
  readonly hasPrevious: boolean;
}

/** A snapshot that sandboxes can be made from. */
export interface SnapshotInfo {
  readonly id: string;
  readonly name: string | null;
  /** The sandbox it was taken of, which may no longer exist. */
  readonly sandboxId: string;
  readonly createdAtMs: number;
  /** How many sandboxes the daemon keeps ready of it. */
  readonly pool: number;
}

/** A new sandbox, and how long each step of its creation took. */
export interface CreatedSandbox extends SandboxAccess {
  readonly timings: readonly StepTiming[];
}

/** The id and token with which a caller reaches the agent of a sandbox. */
export interface SandboxAccess {
  readonly id: string;
  readonly accessToken: string | null;
}

/** The result of a fork. */
export interface Forked {
  /** One for each requested child: its id, or why it could not be made. */
  readonly children: readonly (string | TorporError)[];
  readonly timings: readonly StepTiming[];
}

/** The result of a pause or resume. */
export interface Changed {
  /** False when the sandbox already was in the wanted state. */
  readonly changed: boolean;
  readonly timings: readonly StepTiming[];
}

/** An API key without its secret; `prefix` is the part of it that may be shown. */
export interface ApiKeyInfo {
  readonly id: string;
  readonly name: string;
  readonly prefix: string;
  readonly createdAtMs: number;
}

/** The ends of a sandbox's console and of its VMM's log. */
export interface SandboxLogs {
  readonly console: string;
  readonly vmm: string;
}

/** Parses the answer about the daemon itself. */
export function parseDaemon(value: unknown): DaemonInfo {
  const body = parseObject(value, "daemon");
  return {
    pid: parseCount(body["pid"], "pid"),
    version: parseString(body["version"], "version"),
    startedAtMs: parseCount(body["startedAtMs"], "startedAtMs"),
    stateFolder: parseString(body["stateFolder"], "stateFolder"),
    accelerator: parseString(body["accelerator"], "accelerator"),
    url: parseString(body["url"], "url"),
    servedDomain: optional(body["servedDomain"], parseString, "servedDomain") ?? null,
    templates: parseList(body["templates"], "templates").map((name) =>
      parseString(name, "templates"),
    ),
    sandboxCount: parseCount(body["sandboxCount"], "sandboxCount"),
    settings: optional(body["settings"], parseStringMap, "settings") ?? null,
  };
}

/** Parses one sandbox. */
export function parseSandbox(value: unknown): SandboxInfo {
  const body = parseObject(value, "sandbox");
  return {
    id: parseString(body["id"], "id"),
    template: parseString(body["template"], "template"),
    templateId: parseString(body["templateId"], "templateId"),
    state: parseState(body["state"]),
    reason: optional(body["reason"], parseString, "reason") ?? null,
    lastLines: optional(body["lastLines"], parseLines, "lastLines") ?? [],
    generation: parseCount(body["generation"], "generation"),
    pid: optional(body["pid"], parseCount, "pid") ?? null,
    pager: optional(body["pager"], parsePager, "pager") ?? null,
    createdAtMs: parseCount(body["createdAtMs"], "createdAtMs"),
    startedAtMs: optional(body["startedAtMs"], parseCount, "startedAtMs") ?? null,
    metadata: optional(body["metadata"], parseStringMap, "metadata") ?? {},
    onTimeout: optional(body["onTimeout"], parseOnTimeout, "onTimeout") ?? "kill",
    endAtMs: optional(body["endAtMs"], parseCount, "endAtMs") ?? null,
    leftMs: optional(body["leftMs"], parseCount, "leftMs") ?? null,
    idleTimeoutMs: optional(body["idleTimeoutMs"], parseCount, "idleTimeoutMs") ?? null,
    maxRunMs: optional(body["maxRunMs"], parseCount, "maxRunMs") ?? null,
    missedDeadline: optional(body["missedDeadline"], parseMissed, "missedDeadline") ?? null,
    snapshot: optional(body["snapshot"], parseSaved, "snapshot") ?? null,
    hasPrevious: optional(body["hasPrevious"], parseBoolean, "hasPrevious") ?? false,
  };
}

function parsePager(value: unknown): PagerInfo {
  const body = parseObject(value, "pager");
  return {
    pid: parseCount(body["pid"], "pid"),
    progress: optional(body["progress"], parseProgress, "progress") ?? null,
  };
}

function parseProgress(value: unknown): PagerProgress {
  const body = parseObject(value, "progress");
  const count = (name: string): number => parseCount(body[name], name);
  return {
    phase: parseOneOf(body["phase"], "phase", prefetchPhases),
    presentPages: count("presentPages"),
    memoryPages: count("memoryPages"),
    faults: count("faults"),
    prefetchedPages: count("prefetchedPages"),
    workingSetPages: count("workingSetPages"),
    remark: parseString(body["remark"], "remark"),
  };
}

function parseSaved(value: unknown): SavedInfo {
  const body = parseObject(value, "snapshot");
  return {
    id: optional(body["id"], parseString, "id") ?? "",
    generation: parseCount(body["generation"], "generation"),
    createdAtMs: parseCount(body["createdAtMs"], "createdAtMs"),
    memoryBytes: parseCount(body["memoryBytes"], "memoryBytes"),
    memoryLayers: optional(body["memoryLayers"], parseCount, "memoryLayers") ?? 0,
    diskBytes: parseCount(body["diskBytes"], "diskBytes"),
    diskLayers: optional(body["diskLayers"], parseCount, "diskLayers") ?? 0,
  };
}

function parseMissed(value: unknown): MissedDeadline {
  const body = parseObject(value, "missedDeadline");
  return {
    rule: parseString(body["rule"], "rule"),
    atMs: parseCount(body["atMs"], "atMs"),
    message: parseString(body["message"], "message"),
  };
}

function parseOnTimeout(value: unknown, what: string): OnTimeout {
  return parseOneOf(value, what, ["kill", "pause"]);
}

function parseLines(value: unknown, what: string): readonly string[] {
  return parseList(value, what).map((line) => parseString(line, what));
}

/** Parses one snapshot. */
export function parseSnapshot(value: unknown): SnapshotInfo {
  const body = parseObject(value, "snapshot");
  const [name] = parseList(body["names"], "names");
  return {
    id: parseString(body["snapshotID"], "snapshotID"),
    name: optional(name, parseString, "names") ?? null,
    sandboxId: parseString(body["sandboxID"], "sandboxID"),
    createdAtMs: parseDate(body["createdAt"], "createdAt"),
    pool: parseCount(body["pool"], "pool"),
  };
}

/** Parses one child of a fork. @returns its id, or its error */
export function parseForkResult(value: unknown): string | TorporError {
  const { sandbox, error } = parseObject(value, "fork");
  if (sandbox !== undefined) return parseAccess(sandbox).id;
  return TorporError.fromBody(parseObject(error, "error"));
}

function parseState(value: unknown): SandboxStateName {
  const state = sandboxStates.find((name) => name === value);
  if (state === undefined) {
    throw new TorporError(
      "internal",
      `the daemon knows a state ${shownValue(value)} that we do not`,
    );
  }
  return state;
}

/** Parses what a creation returns. */
export function parseAccess(value: unknown): SandboxAccess {
  const body = parseObject(value, "sandbox");
  return {
    id: parseString(body["sandboxID"], "sandboxID"),
    accessToken: optional(body["envdAccessToken"], parseString, "envdAccessToken") ?? null,
  };
}

/** Parses one API key. */
export function parseApiKey(value: unknown): ApiKeyInfo {
  const body = parseObject(value, "key");
  return {
    id: parseString(body["id"], "id"),
    name: parseString(body["name"], "name"),
    prefix: parseString(body["prefix"], "prefix"),
    createdAtMs: parseCount(body["createdAtMs"], "createdAtMs"),
  };
}

/** Accepts an array of anything. @throws internal */
export function parseList(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value)) {
    throw new TorporError("internal", `the daemon's ${what} are not a list`);
  }
  return value as readonly unknown[];
}

function parseDate(value: unknown, what: string): number {
  return parseCount(Date.parse(parseString(value, what)), what);
}

function parseCount(value: unknown, what: string): number {
  return parseInteger(value, what, 0, Number.MAX_SAFE_INTEGER);
}
