/** What `torpor ls`, `info` and `logs` show of a sandbox: its record, its files and its last words. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { JsonObject } from "@torpor/std";
import type { SnapshotStore } from "@torpor/storage";
import { readTail, runFiles } from "@torpor/vmm";
import type { ApiSandbox, ApiSandboxes } from "./api/api-host.ts";

/** LIMIT: how much of a log is shown. */
const logBytesMax = 64 * 1024;

export async function readDetails(sandboxes: ApiSandboxes): Promise<readonly JsonObject[]> {
  return await Promise.all(sandboxes.all().map((one) => readDetail(sandboxes, one)));
}

export async function readDetail(
  sandboxes: Pick<ApiSandboxes, "missedDeadline" | "store">,
  sandbox: ApiSandbox,
): Promise<JsonObject> {
  const { record } = sandbox;
  const { lifetime } = record;
  const { state } = record;
  return {
    id: record.id,
    template: record.templateName,
    templateId: record.templateId,
    state: state.kind,
    reason: state.kind === "failed" ? state.reason : null,
    lastLines: state.kind === "failed" ? state.lastLines : [],
    generation: record.generation,
    pid: "vm" in state ? state.vm.pid : null,
    createdAtMs: record.createdAtMs,
    startedAtMs: record.startedAtMs,
    metadata: record.metadata,
    network: record.network,
    noInternet: sandbox.run?.network.noInternet ?? null,
    onTimeout: lifetime.onTimeout,
    endAtMs: lifetime.endAtMs,
    leftMs: lifetime.leftMs,
    idleTimeoutMs: lifetime.idleTimeoutMs,
    maxRunMs: lifetime.maxRunMs,
    missedDeadline: sandboxes.missedDeadline(sandbox) ?? null,
    snapshot: await readSnapshotDetail(sandbox, sandboxes.store),
    hasPrevious: record.previousSnapshotId !== null,
  };
}

/** Null also when the description is damaged: a resume says so, and a list has to go on. */
async function readSnapshotDetail(
  { record: { snapshotId } }: ApiSandbox,
  store: SnapshotStore,
): Promise<JsonObject | null> {
  if (snapshotId === null) return null;
  const manifest = await store.read(snapshotId).catch(() => undefined);
  if (manifest === undefined) return null;
  const { generation, createdAtMs, memory, disk } = manifest;
  const disks = await Promise.all(disk.map((one) => allocatedBytes(store.diskPath(one.layerId))));
  return {
    id: snapshotId,
    generation,
    createdAtMs,
    // What the last pause wrote; older layers are shared with whoever stands upon them too.
    memoryBytes: await folderBytes(store.folder(snapshotId)),
    memoryLayers: memory.kind === "layers" ? memory.layers.length : 0,
    diskBytes: disks.reduce((sum, bytes) => sum + bytes, 0),
    diskLayers: disk.length,
  };
}

/** The console of the guest and the log of the VMM, of the newest run that is still on disk. */
export async function readConsole({ record, folder }: ApiSandbox): Promise<JsonObject> {
  const run = folder.run(record.generation);
  return {
    console: await readTail(join(run, runFiles.console), logBytesMax),
    vmm: await readTail(join(run, runFiles.log), logBytesMax),
  };
}

async function folderBytes(folder: string): Promise<number> {
  const sizes = (await readdir(folder)).map((name) => allocatedBytes(join(folder, name)));
  return (await Promise.all(sizes)).reduce((sum, bytes) => sum + bytes, 0);
}

/** What a file takes on disk; files here have holes. `blocks` counts units of 512 bytes. */
async function allocatedBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * 512;
}
