/** Sandboxes in the shapes of the E2B control plane. */
import type { JsonObject } from "@torpor/std";
import type { Template } from "@torpor/storage";
import type { SnapshotRecord } from "./records/snapshot-records.ts";
import type { SandboxRecord } from "./records/sandbox-records.ts";

/** Required by the wire, meaningless since clients stopped using it. */
const clientID = "torpor";
const bytesPerMiB = 1024 * 1024;
/** Clients want a date also of what has no end. */
const farFutureMs = Date.UTC(9999, 0);

/** The answer of create and connect. */
export function toSandbox(record: SandboxRecord, envdVersion: string): JsonObject {
  return {
    sandboxID: record.id,
    templateID: record.templateId,
    alias: record.templateName,
    clientID,
    envdVersion,
    envdAccessToken: record.accessToken,
    domain: null,
  };
}

/** Of a snapshot that others are made from: the id is good as a `templateID`. */
export function toSnapshot({ id, name, sandboxId, createdAtMs, pool }: SnapshotRecord): JsonObject {
  return {
    snapshotID: id,
    names: name === null ? [] : [name],
    sandboxID: sandboxId,
    createdAt: new Date(createdAtMs).toISOString(),
    pool,
  };
}

/** The answer of `GET /sandboxes/{id}`. */
export function toSandboxDetail(
  record: SandboxRecord,
  template: Template,
  envdVersion: string,
): JsonObject {
  const { machine, diskBytes } = template.manifest;
  return {
    ...toSandbox(record, envdVersion),
    startedAt: new Date(record.startedAtMs).toISOString(),
    endAt: new Date(record.lifetime.endAtMs ?? farFutureMs).toISOString(),
    cpuCount: machine.vcpuCount,
    memoryMB: machine.memoryMiB,
    diskSizeMB: diskBytes / bytesPerMiB,
    state: record.state.kind === "paused" ? "paused" : "running",
    metadata: record.metadata,
  };
}
