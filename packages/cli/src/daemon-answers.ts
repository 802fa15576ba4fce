/** What the daemon says, and how it is read. */
import {
  type StepTiming,
  TorporError,
  optional,
  parseInteger,
  parseObject,
  parseString,
  parseStringMap,
} from "@torpor/std";

const sandboxStates = [
  "creating",
  "running",
  "checkpointing",
  "pausing",
  "paused",
  "resuming",
  "removing",
  "failed",
] as const;
export type SandboxStateName = (typeof sandboxStates)[number];

export interface DaemonInfo {
  readonly pid: number;
  readonly version: string;
  readonly startedAtMs: number;
  readonly stateFolder: string;
  readonly accelerator: string;
  readonly url: string;
  readonly templates: readonly string[];
  readonly sandboxCount: number;
}

export interface SnapshotInfo {
  readonly generation: number;
  readonly createdAtMs: number;
  readonly memoryBytes: number;
  readonly diskBytes: number;
}

export interface SandboxInfo {
  readonly id: string;
  readonly template: string;
  readonly templateId: string;
  readonly state: SandboxStateName;
  /** Why it failed; null in every other state. */
  readonly reason: string | null;
  readonly generation: number;
  /** Of the VM on this machine; null while there is none. */
  readonly pid: number | null;
  readonly createdAtMs: number;
  readonly startedAtMs: number | null;
  readonly metadata: Readonly<Record<string, string>>;
  readonly snapshot: SnapshotInfo | null;
}

export interface CreatedSandbox extends SandboxAccess {
  readonly timings: readonly StepTiming[];
}

/** What is needed to talk to the agent of a sandbox. */
export interface SandboxAccess {
  readonly id: string;
  readonly accessToken: string | null;
}

export interface Changed {
  /** False when the sandbox was in the wanted state before. */
  readonly changed: boolean;
  readonly timings: readonly StepTiming[];
}

export interface ApiKeyInfo {
  readonly id: string;
  readonly name: string;
  readonly prefix: string;
  readonly createdAtMs: number;
}

export interface SandboxLogs {
  readonly console: string;
  readonly vmm: string;
}

export function parseDaemon(value: unknown): DaemonInfo {
  const body = parseObject(value, "daemon");
  return {
    pid: parseCount(body["pid"], "pid"),
    version: parseString(body["version"], "version"),
    startedAtMs: parseCount(body["startedAtMs"], "startedAtMs"),
    stateFolder: parseString(body["stateFolder"], "stateFolder"),
    accelerator: parseString(body["accelerator"], "accelerator"),
    url: parseString(body["url"], "url"),
    templates: parseList(body["templates"], "templates").map((name) =>
      parseString(name, "templates"),
    ),
    sandboxCount: parseCount(body["sandboxCount"], "sandboxCount"),
  };
}

export function parseSandbox(value: unknown): SandboxInfo {
  const body = parseObject(value, "sandbox");
  return {
    id: parseString(body["id"], "id"),
    template: parseString(body["template"], "template"),
    templateId: parseString(body["templateId"], "templateId"),
    state: parseState(body["state"]),
    reason: optional(body["reason"], parseString, "reason") ?? null,
    generation: parseCount(body["generation"], "generation"),
    pid: optional(body["pid"], parseCount, "pid") ?? null,
    createdAtMs: parseCount(body["createdAtMs"], "createdAtMs"),
    startedAtMs: optional(body["startedAtMs"], parseCount, "startedAtMs") ?? null,
    metadata: optional(body["metadata"], parseStringMap, "metadata") ?? {},
    snapshot: optional(body["snapshot"], parseSnapshot, "snapshot") ?? null,
  };
}

function parseSnapshot(value: unknown): SnapshotInfo {
  const body = parseObject(value, "snapshot");
  return {
    generation: parseCount(body["generation"], "generation"),
    createdAtMs: parseCount(body["createdAtMs"], "createdAtMs"),
    memoryBytes: parseCount(body["memoryBytes"], "memoryBytes"),
    diskBytes: parseCount(body["diskBytes"], "diskBytes"),
  };
}

function parseState(value: unknown): SandboxStateName {
  const state = sandboxStates.find((name) => name === value);
  if (state === undefined) {
    throw new TorporError("internal", `the daemon knows a state ${String(value)} that we do not`);
  }
  return state;
}

export function parseAccess(value: unknown): SandboxAccess {
  const body = parseObject(value, "sandbox");
  return {
    id: parseString(body["sandboxID"], "sandboxID"),
    accessToken: optional(body["envdAccessToken"], parseString, "envdAccessToken") ?? null,
  };
}

export function parseApiKey(value: unknown): ApiKeyInfo {
  const body = parseObject(value, "key");
  return {
    id: parseString(body["id"], "id"),
    name: parseString(body["name"], "name"),
    prefix: parseString(body["prefix"], "prefix"),
    createdAtMs: parseCount(body["createdAtMs"], "createdAtMs"),
  };
}

export function parseList(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value)) {
    throw new TorporError("internal", `the daemon's ${what} are not a list`);
  }
  return value as readonly unknown[];
}

function parseCount(value: unknown, what: string): number {
  return parseInteger(value, what, 0, Number.MAX_SAFE_INTEGER);
}
