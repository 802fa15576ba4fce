/** Sandboxes in the shapes of the E2B control plane. */
import type { JsonObject } from "@torpor/std";
import type { Template } from "@torpor/storage";
import type { SandboxRecord } from "./records/sandbox-records.ts";

/** Required by the wire, meaningless since clients stopped using it. */
const clientID = "torpor";
const bytesPerMiB = 1024 * 1024;

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
    endAt: new Date(record.startedAtMs).toISOString(),
    cpuCount: machine.vcpuCount,
    memoryMB: machine.memoryMiB,
    diskSizeMB: diskBytes / bytesPerMiB,
    state: record.state.kind === "paused" ? "paused" : "running",
    metadata: record.metadata,
  };
}
