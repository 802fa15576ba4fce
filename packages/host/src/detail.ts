/** What `torpor ls`, `info` and `logs` show of a sandbox: its record, its files and its last words. */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { JsonObject } from "@torpor/std";
import { openSnapshot } from "@torpor/storage";
import { readTail, runFiles } from "@torpor/vmm";
import type { Sandbox } from "./sandbox.ts";

/** LIMIT: how much of a log is shown. */
const logBytesMax = 64 * 1024;

export async function readDetails(sandboxes: readonly Sandbox[]): Promise<readonly JsonObject[]> {
  return await Promise.all(sandboxes.map(readDetail));
}

export async function readDetail(sandbox: Sandbox): Promise<JsonObject> {
  const { record } = sandbox;
  const { state } = record;
  return {
    id: record.id,
    template: record.templateName,
    templateId: record.templateId,
    state: state.kind,
    reason: state.kind === "failed" ? state.reason : null,
    generation: record.generation,
    pid: "vm" in state ? state.vm.pid : null,
    createdAtMs: record.createdAtMs,
    startedAtMs: record.startedAtMs,
    metadata: record.metadata,
    snapshot: await readSnapshotDetail(sandbox),
  };
}

/** Null also when the description is damaged: a resume says so, and a list has to go on. */
async function readSnapshotDetail({ record, folder }: Sandbox): Promise<JsonObject | null> {
  const { snapshotGeneration } = record;
  if (snapshotGeneration === null) return null;
  const manifest = await openSnapshot(folder, snapshotGeneration).catch(() => undefined);
  if (manifest === undefined) return null;
  const disks = await Promise.all(
    manifest.diskGenerations.map((generation) => allocatedBytes(folder.disk(generation))),
  );
  return {
    generation: snapshotGeneration,
    createdAtMs: manifest.createdAtMs,
    memoryBytes: await folderBytes(folder.snapshot(snapshotGeneration)),
    diskBytes: disks.reduce((sum, bytes) => sum + bytes, 0),
  };
}

/** The console of the guest and the log of the VMM, of the newest run that is still on disk. */
export async function readConsole({ record, folder }: Sandbox): Promise<JsonObject> {
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
