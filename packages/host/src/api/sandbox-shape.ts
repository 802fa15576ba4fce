/** Sandboxes and snapshots in the shapes of the E2B control plane. */
import { envdVersion } from "@torpor/protocol";
import type { JsonObject } from "@torpor/std";
import { isEndless } from "../lifecycle/lifetime.ts";
import type { StateKind } from "../lifecycle/state.ts";
import type { SandboxRecord } from "../records/sandbox-records.ts";
import type { SnapshotRecord } from "../records/snapshot-records.ts";
import { trafficTokenOf } from "../traffic-token.ts";
import type { TemplateSize } from "./template-sizes.ts";

/** The wire requires it; clients no longer use it. */
const clientID = "torpor";
/** Clients expect a date even for a sandbox without an end. */
const farFutureMs = Date.UTC(9999, 0);

/** The states that the E2B wire knows. */
export type WireState = "running" | "paused";

/** The wire's state for each of Torpor's; undefined: the wire does not show the sandbox. */
const wireStates: Readonly<Record<StateKind, WireState | undefined>> = {
  creating: undefined,
  running: "running",
  checkpointing: "running",
  pausing: "paused",
  paused: "paused",
  resuming: "paused",
  removing: undefined,
  // Its VM died. Its last snapshot is left, and a connect continues from there.
  failed: "paused",
};

/**
 * The state on the wire; undefined if the sandbox is being created or removed, or cannot be
 * resumed.
 */
export function wireStateOf({ state, snapshotId }: SandboxRecord): WireState | undefined {
  if (state.kind === "failed" && snapshotId === null) return undefined;
  return wireStates[state.kind];
}

/** The answer of create and connect. @param domain From `ApiHost.servedDomain`. */
export function toSandbox(record: SandboxRecord, domain: string): JsonObject {
  return {
    sandboxID: record.id,
    templateID: record.templateId,
    alias: record.templateName,
    clientID,
    envdVersion,
    envdAccessToken: record.accessToken,
    trafficAccessToken: trafficTokenOf(record),
    domain,
  };
}

/** An entry of the lists. */
export function toListedSandbox(record: SandboxRecord, size: TemplateSize): JsonObject {
  return {
    sandboxID: record.id,
    templateID: record.templateId,
    alias: record.templateName,
    clientID,
    envdVersion,
    startedAt: toDate(record.startedAtMs),
    endAt: toDate(endAtMsOf(record)),
    cpuCount: size.vcpuCount,
    memoryMB: size.memoryMiB,
    diskSizeMB: size.diskMiB,
    state: wireStateOf(record),
    metadata: record.metadata,
    volumeMounts: [],
  };
}

/** The answer of `GET /sandboxes/{id}`. */
export function toSandboxDetail(
  record: SandboxRecord,
  size: TemplateSize,
  domain: string,
): JsonObject {
  const { network, lifetime, autoResume } = record;
  return {
    ...toListedSandbox(record, size),
    envdAccessToken: record.accessToken,
    domain,
    allowInternetAccess: network?.allowInternetAccess ?? null,
    ...(network === null ? {} : { network: toNetwork(record) }),
    lifecycle: { autoResume: autoResume !== null, onTimeout: lifetime.onTimeout },
  };
}

/** A snapshot that sandboxes can be created from: the id is valid as a `templateID`. */
export function toSnapshot(
  { id, name, sandboxId, createdAtMs, pool }: SnapshotRecord,
  tagged: readonly string[],
): JsonObject {
  return {
    snapshotID: id,
    names: [...(name === null ? [] : [name]), ...tagged],
    sandboxID: sandboxId,
    createdAt: toDate(createdAtMs),
    pool,
  };
}

/** A time in milliseconds since 1970 as RFC 3339 text. */
export function toDate(ms: number): string {
  return new Date(ms).toISOString();
}

/**
 * When a paused sandbox ended its run. For one that is pausing that is now: its record is still of
 * the run before.
 */
function endAtMsOf(record: SandboxRecord): number {
  const { lifetime, startedAtMs, state } = record;
  if (state.kind === "pausing") return Date.now();
  if (wireStateOf(record) === "paused") return lifetime.endedAtMs ?? startedAtMs;
  return isEndless(lifetime) ? farFutureMs : (lifetime.endAtMs ?? startedAtMs);
}

function toNetwork({ network }: SandboxRecord): JsonObject | null {
  if (network === null) return null;
  const { allowInternetAccess: _own, maskRequestHost, ...rest } = network;
  return { ...rest, ...(maskRequestHost === null ? {} : { maskRequestHost }) };
}
