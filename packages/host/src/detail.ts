/**
 * Reads what `torpor ls`, `info` and `logs` show of a sandbox: its record, its files and its last
 * words.
 */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { Deadline, type JsonObject } from "@torpor/std";
import type { SnapshotStore } from "@torpor/storage";
import { readTail, runFiles } from "@torpor/vmm";
import type { ApiSandbox, ApiSandboxes } from "./api/api-host.ts";
import { readLastWords } from "./last-words.ts";
import { stallReason } from "./sandbox/stall.ts";

/** LIMIT: how much of a log is shown. */
const logBytesMax = 64 * 1024;
/** LIMIT: a pager that does not answer must not delay the response. */
const pagerBudgetMs = 250;

/** The details of all sandboxes. */
export async function readDetails(sandboxes: ApiSandboxes): Promise<readonly JsonObject[]> {
  return await Promise.all(sandboxes.all().map((one) => readDetail(sandboxes, one)));
}

/** The details of one sandbox, as JSON; contains no secret. */
export async function readDetail(
  sandboxes: Pick<ApiSandboxes, "missedDeadline" | "store">,
  sandbox: ApiSandbox,
): Promise<JsonObject> {
  const { record } = sandbox;
  const { lifetime } = record;
  const { state } = record;
  const isStalled = state.kind === "running" && sandbox.run?.isStalled === true;
  return {
    id: record.id,
    template: record.templateName,
    templateId: record.templateId,
    state: isStalled ? "stalled" : state.kind,
    reason: isStalled ? stallReason : state.kind === "failed" ? state.reason : null,
    lastLines: state.kind === "failed" ? state.lastLines : [],
    generation: record.generation,
    pid: "vm" in state ? state.vm.pid : null,
    pager: await readPager(sandbox),
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

/** Progress of loading a VM's memory through its pager; null for a VM without one. */
async function readPager({ run }: ApiSandbox): Promise<JsonObject | null> {
  const pager = run?.pager;
  if (pager === undefined) return null;
  const deadline = Deadline.after(pagerBudgetMs, "asking a pager how far it is");
  const status = await pager.status(deadline).catch(() => undefined);
  if (status === undefined) return { pid: pager.pid, progress: null };
  const { prefetchPhase: phase, presentPages, memoryPages, faults } = status;
  const { prefetchedPages, workingSetPages, remark } = status;
  const pages = { presentPages, memoryPages, prefetchedPages, workingSetPages };
  return { pid: pager.pid, progress: { phase, faults, ...pages, remark } };
}

/**
 * The newest snapshot; null if there is none, or if its manifest is damaged. A resume reports the
 * damage, and a list must still work.
 */
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
    // Only the last save's own files; older layers may be shared with other sandboxes and snapshots.
    memoryBytes: await folderBytes(store.folder(snapshotId)),
    memoryLayers: memory.kind === "layers" ? memory.layers.length : 0,
    diskBytes: disks.reduce((sum, bytes) => sum + bytes, 0),
    diskLayers: disk.length,
  };
}

/** The guest's console and the VMM's log, of the present run or else of the last one. */
export async function readConsole({ record, folder }: ApiSandbox): Promise<JsonObject> {
  const read = async (name: string): Promise<string> => {
    const text = await readTail(join(folder.run(record.generation), name), logBytesMax);
    if (text !== "") return text;
    const last = await readLastWords(folder, name);
    return last === undefined ? "" : last.bytes.subarray(-logBytesMax).toString();
  };
  return { console: await read(runFiles.console), vmm: await read(runFiles.log) };
}

async function folderBytes(folder: string): Promise<number> {
  const sizes = (await readdir(folder)).map((name) => allocatedBytes(join(folder, name)));
  return (await Promise.all(sizes)).reduce((sum, bytes) => sum + bytes, 0);
}

/** Bytes that a file occupies on disk; these files have holes. `blocks` counts units of 512 bytes. */
async function allocatedBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * 512;
}
