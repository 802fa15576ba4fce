/** What a pause and a checkpoint have in common before their steps begin. */
import { Deadline, assert } from "@torpor/std";
import type { SnapshotManifest } from "@torpor/storage";
import { type RunningVm, runningVmOf } from "../lifecycle/state.ts";
import type { SandboxRun } from "../steps/run.ts";
import type { SaveContext } from "../steps/save.ts";
import { goOnBudgetMs } from "./stall.ts";
import { contentToSaveOver } from "./template-content.ts";
import type { Turn } from "./writer.ts";

/** The run that is saved, and what its record goes on saying of it. */
export interface RunToSave {
  readonly run: SandboxRun;
  readonly running: RunningVm;
}

export async function runToSave({ record: { state }, run }: Turn): Promise<RunToSave> {
  assert(state.kind === "running" && run !== undefined, "a running sandbox has a run");
  // A guest that QEMU holds for want of disk space could not be prepared.
  await run.vm.releaseVcpus(Deadline.after(goOnBudgetMs, "letting the VM go on"));
  return { run, running: runningVmOf(state) };
}

export async function newSaveContext(
  turn: Turn,
  snapshotId: string,
  run: SandboxRun,
): Promise<SaveContext> {
  const { host, log, record } = turn;
  const { id, templateId, hostKey, diskLayers, state } = record;
  const template = await host.templates.open(templateId);
  const driver = host.driverOf(template.manifest);
  const base = await baseOf(turn);
  const mapped = "templateSha256" in state ? state.templateSha256 : base?.templateSha256;
  const sha256 = await host.templates.contentOf(templateId);
  const templateSha256 = contentToSaveOver(mapped, { templateId, sha256 });
  return {
    snapshotId,
    sandboxId: id,
    templateId,
    templateSha256,
    imagePath: template.memoryPath,
    hostKey,
    store: host.store,
    run,
    identity: { ...(await driver.identity()), version: run.vm.version },
    base,
    diskLayers,
    saveWhole: host.saveWhole,
    drainMs: host.drainMs,
    log,
  };
}

/** The snapshot that the sandbox stands upon; read only when it is not known. @throws snapshot.corrupt */
export async function baseOf({ host, record, base }: Turn): Promise<SnapshotManifest | undefined> {
  if (record.snapshotId === null) return undefined;
  return base?.snapshotId === record.snapshotId ? base : await host.store.read(record.snapshotId);
}
