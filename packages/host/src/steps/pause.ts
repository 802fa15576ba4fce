/**
 * How a running sandbox goes to sleep on disk.
 *
 * The order, each step with its budget and its undo:
 *
 *   1. check space      enough room for the worst case, before anything is disturbed
 *   2. stage            a folder to write the snapshot into                  undo: remove it
 *   3. close idle       the host's own idle connections to the agent
 *   4. prepare          the agent refuses new work, quiets itself, freezes user processes,
 *                       collects garbage last and answers on a closing connection
 *                                                                            undo: cancel
 *   5. hold vCPUs       the instant of the snapshot                          undo: release
 *   6. save device state
 *   7. save memory      pages that differ from the template's image
 *   8. flush disk       the layer of this run belongs to the same instant
 *   9. publish          everything flushed, then renamed into place: the point of no return
 *  10. end VM           connections cut, process gone
 *
 * Any failure before 9 is done leaves the sandbox running and thawed. After it the sandbox is
 * paused, whatever happens to the VM.
 */
import { join } from "node:path";
import type { SavedIdentity, StagedSnapshot } from "@torpor/storage";
import {
  type MemoryDiffDigest,
  type SandboxFolder,
  assertFreeSpace,
  digestFile,
  snapshotFiles,
  stageSnapshot,
  writeMemoryDiff,
} from "@torpor/storage";
import { Deadline, type Step, assert, flush } from "@torpor/std";
import { type SandboxRun, endRun } from "./run.ts";

/** LIMIT: device state, map and manifest together are far below this. */
const snapshotOverheadBytes = 8 * 1024 * 1024;
const undoBudgetMs = 10_000;

export interface PauseContext {
  readonly sandboxId: string;
  readonly templateId: string;
  /** The template's memory image. */
  readonly baseMemoryPath: string;
  readonly folder: SandboxFolder;
  readonly run: SandboxRun;
  readonly identity: SavedIdentity;
  /** The disk layers of this run, its own last. */
  readonly diskGenerations: readonly number[];
  /** Filled in by the steps. */
  staged?: StagedSnapshot;
  memory?: MemoryDiffDigest;
}

export const pauseSteps: readonly Step<PauseContext>[] = [
  { name: "check space", budgetMs: 5_000, run: checkSpace },
  { name: "stage", budgetMs: 5_000, run: stage },
  { name: "close idle", budgetMs: 1_000, run: closeIdle },
  { name: "prepare", budgetMs: 20_000, run: prepareGuest },
  { name: "hold vCPUs", budgetMs: 5_000, run: holdVcpus },
  { name: "save device state", budgetMs: 15_000, run: saveDeviceState },
  { name: "save memory", budgetMs: 120_000, run: saveMemory },
  { name: "flush disk", budgetMs: 30_000, run: flushDisk },
  { name: "publish", budgetMs: 30_000, commit: true, run: publish },
  { name: "end VM", budgetMs: 15_000, run: endVm },
];

async function checkSpace({ run, folder }: PauseContext): Promise<void> {
  const ownBytes = run.vm.memory
    .ownRanges()
    .reduce((sum, range) => sum + range.endBytes - range.startBytes, 0);
  await assertFreeSpace(folder.path, ownBytes + snapshotOverheadBytes);
}

async function stage(
  context: PauseContext,
  _deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  context.staged = undo.use(await stageSnapshot(context.folder, context.run.generation));
}

async function closeIdle({ run }: PauseContext): Promise<void> {
  run.link.closeIdle();
}

async function prepareGuest(
  { run }: PauseContext,
  deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  // The undo comes first: a prepare whose answer was lost has frozen the guest all the same.
  undo.defer(async () => {
    await run.link.cancel(Deadline.after(undoBudgetMs, "thawing the guest after a failed pause"));
  });
  await run.link.prepare("pause", deadline);
}

async function holdVcpus(
  { run }: PauseContext,
  deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  undo.defer(() =>
    run.vm.releaseVcpus(Deadline.after(undoBudgetMs, "releasing vCPUs after a failed pause")),
  );
  await run.vm.holdVcpus(deadline);
}

async function saveDeviceState({ run, staged }: PauseContext, deadline: Deadline): Promise<void> {
  assert(staged !== undefined, "the snapshot is staged before it is written");
  await run.vm.saveDeviceState(join(staged.path, snapshotFiles.deviceState), deadline);
}

async function saveMemory(context: PauseContext): Promise<void> {
  const { run, staged, baseMemoryPath } = context;
  assert(staged !== undefined, "the snapshot is staged before it is written");
  context.memory = await writeMemoryDiff(staged.path, baseMemoryPath, run.vm.memory);
}

async function flushDisk({ run, folder }: PauseContext, deadline: Deadline): Promise<void> {
  await run.vm.flushDisk(deadline);
  await flush(folder.disk(run.generation));
}

async function publish(context: PauseContext): Promise<void> {
  const { staged, memory, sandboxId, templateId, run, identity, diskGenerations } = context;
  assert(staged !== undefined && memory !== undefined, "the snapshot is written");
  await staged.publish({
    format: "torpor-snapshot-1",
    sandboxId,
    templateId,
    generation: run.generation,
    createdAtMs: Date.now(),
    identity,
    memory,
    deviceState: await digestFile(join(staged.path, snapshotFiles.deviceState)),
    diskGenerations,
  });
}

async function endVm({ run }: PauseContext, deadline: Deadline): Promise<void> {
  await endRun(run, deadline);
}
