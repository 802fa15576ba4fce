/** Sandboxes and snapshots in the shapes of the E2B control plane. */
import { envdVersion } from "@torpor/protocol";
import type { JsonObject } from "@torpor/std";
import { isEndless } from "../lifecycle/lifetime.ts";
import type { StateKind } from "../lifecycle/state.ts";
import type { SandboxRecord } from "../records/sandbox-records.ts";
import type { SnapshotRecord } from "../records/snapshot-records.ts";
import { trafficTokenOf } from "../traffic-token.ts";
import type { TemplateSize } from "./template-sizes.ts";

/** Required by the wire, meaningless since clients stopped using it. */
const clientID = "torpor";
/** Clients want a date also of what has no end. */
const farFutureMs = Date.UTC(9999, 0);

export type WireState = "running" | "paused";

/** What the wire, which knows two states, is told of each of ours; undefined: not there. */
const wireStates: Readonly<Record<StateKind, WireState | undefined>> = {
  creating: undefined,
  running: "running",
  checkpointing: "running",
  pausing: "paused",
  paused: "paused",
  resuming: "paused",
  removing: undefined,
  // Its VM died: what is left is its last snapshot, and a connect goes on from there.
  failed: "paused",
};

/** Undefined for one that is not there yet, any more, or has nothing to be resumed from. */
export function wireStateOf({ state, snapshotId }: SandboxRecord): WireState | undefined {
  if (state.kind === "failed" && snapshotId === null) return undefined;
  return wireStates[state.kind];
}

/** The answer of create and connect. @param domain As `ApiHost.servedDomain` tells it. */
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

/** Of a snapshot that others are made from: the id is good as a `templateID`. */
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

export function toDate(ms: number): string {
  return new Date(ms).toISOString();
}

/** Of one that sleeps: since when. One on its way there does so now: its record is of the run before. */
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
