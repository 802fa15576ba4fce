/** Preparation that a pause and a checkpoint share before their steps begin. */
import { Deadline, assert } from "@torpor/std";
import type { SnapshotManifest } from "@torpor/storage";
import { type RunningVm, runningVmOf } from "../lifecycle/state.ts";
import type { SandboxRun } from "../steps/run.ts";
import type { SaveContext } from "../steps/save.ts";
import { goOnBudgetMs } from "./stall.ts";
import { contentToSaveOver } from "./template-content.ts";
import type { Turn } from "./writer.ts";

/** The run to save, and the part of its state that describes its VM, for the record. */
export interface RunToSave {
  readonly run: SandboxRun;
  readonly running: RunningVm;
}

/** The run of a running sandbox, which continues first if its VMM was holding it. */
export async function runToSave({ record: { state }, run }: Turn): Promise<RunToSave> {
  assert(state.kind === "running" && run !== undefined, "a running sandbox has a run");
  // A guest that QEMU holds for want of disk space could not be prepared.
  await run.vm.releaseVcpus(Deadline.after(goOnBudgetMs, "letting the VM go on"));
  return { run, running: runningVmOf(state) };
}

/**
 * Collects what the steps of a save need.
 * @throws template.replaced when the template is no longer the one that the VM has mapped, and
 *   whatever reading a template or a snapshot throws, such as snapshot.corrupt
 */
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

/**
 * The newest snapshot, which the sandbox builds on; read only if it is not in memory.
 * @throws snapshot.corrupt, snapshot.incompatible, secrets.locked, secrets.damaged
 */
export async function baseOf({ host, record, base }: Turn): Promise<SnapshotManifest | undefined> {
  if (record.snapshotId === null) return undefined;
  return base?.snapshotId === record.snapshotId ? base : await host.store.read(record.snapshotId);
}
