/**
 * What a pause and a checkpoint have in common: how a running guest becomes a published snapshot.
 *
 * Each function is one step; pause.ts and checkpoint.ts put them in order. A snapshot stands upon the
 * one before it: its memory layer holds what changed since, its disk is the layers up to the instant.
 */
import { join } from "node:path";
import type { PrepareReason } from "@torpor/protocol";
import { Deadline, type Logger, TorporError, assert, flush } from "@torpor/std";
import {
  type MemoryLayerDigest,
  MemoryStack,
  type ReadableMemory,
  type SavedDiskLayer,
  type SavedIdentity,
  type SavedMemory,
  type SnapshotManifest,
  type SnapshotStore,
  type StagedSnapshot,
  assertFreeSpace,
  digestChunks,
  snapshotFiles,
} from "@torpor/storage";
import type { SandboxRun } from "./run.ts";

/** LIMIT: device state, map and manifest together are far below this. */
const snapshotOverheadBytes = 8 * 1024 * 1024;
/** LIMIT: of the layers below a new one; a longer chain, which no fold has shortened yet, begins anew. */
const memoryLayersMax = 16;
/** The guest answers a cancel once its hooks have run. */
const undoBudgetMs = 20_000;

export interface SaveContext {
  readonly snapshotId: string;
  readonly sandboxId: string;
  readonly templateId: string;
  /** Of the content of the template that the VM has mapped. */
  readonly templateSha256: string | undefined;
  /** The template's memory image. */
  readonly imagePath: string;
  readonly hostKey: string;
  readonly store: SnapshotStore;
  readonly run: SandboxRun;
  readonly identity: SavedIdentity;
  /** The newest snapshot of this sandbox. */
  readonly base: SnapshotManifest | undefined;
  /** The disk layers of this instant, oldest first. */
  readonly diskLayers: readonly string[];
  /** Save everything by the VMM's own means. */
  readonly saveWhole: boolean;
  /** How long requests in flight have to end before a pause. */
  readonly drainMs: number;
  readonly log: Logger;
  /** Filled in by the steps. */
  staged?: StagedSnapshot;
  below?: MemoryStack;
  /** The layers below are of no use: all of memory is written. */
  beginsAnew?: boolean;
  memory?: SavedMemory;
  disk?: Promise<readonly SavedDiskLayer[]>;
  savedWhole?: boolean;
  published?: SnapshotManifest;
}

/** A VMM that saves everything writes nearly all of memory, whatever the guest has changed of it. */
export async function checkSpace({ run, store, saveWhole }: SaveContext): Promise<void> {
  const { memory } = run.vm;
  const memoryBytes = saveWhole ? memory.sizeBytes : memory.estimateOwnBytes();
  await assertFreeSpace(store.path, memoryBytes + snapshotOverheadBytes);
}

export async function stage(
  context: SaveContext,
  _deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  context.staged = undo.use(await context.store.stage(context.snapshotId));
}

/**
 * Before the guest is disturbed: a damaged map or a missing file is found here, and costs no more than
 * a longer save, because the guest has the pages.
 */
export async function openLayersBelow(
  context: SaveContext,
  _deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  await closeBelow(context); // of a run of this step whose answer was lost
  try {
    await openStack(context, undo);
  } catch (cause) {
    await beginAnew(context, undo, cause);
  }
}

/** @throws `cause`, unless it is damage of the layers below */
async function beginAnew(
  context: SaveContext,
  undo: AsyncDisposableStack,
  cause: unknown,
): Promise<void> {
  if (!TorporError.is(cause) || cause.code !== "snapshot.corrupt") throw cause;
  context.log.error("what a running guest was saved to before is damaged; all is saved anew", {
    cause,
  });
  context.beginsAnew = true;
  await closeBelow(context);
  await openStack(context, undo);
}

async function closeBelow({ below }: SaveContext): Promise<void> {
  await below?.[Symbol.asyncDispose]();
}

async function openStack(context: SaveContext, undo: AsyncDisposableStack): Promise<void> {
  const layers = context.store.stacked(layersBelow(context));
  context.below = undo.use(await MemoryStack.open(layers, context.run.vm.memory.sizeBytes));
}

/** From here on new requests of clients wait for what becomes of the sandbox. */
export async function holdRequests(
  { run }: SaveContext,
  _deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  undo.use(run.traffic.hold());
}

export async function closeIdle({ run }: SaveContext): Promise<void> {
  run.traffic.closeIdle();
  run.link.closeIdle();
}

export function prepareGuest(
  reason: PrepareReason,
): (context: SaveContext, deadline: Deadline, undo: AsyncDisposableStack) => Promise<void> {
  return async ({ run }, deadline, undo) => {
    // The undo comes first: a prepare whose answer was lost has frozen the guest all the same.
    undo.defer(async () => {
      await run.link.cancel(Deadline.after(undoBudgetMs, "thawing the guest after a failed save"));
    });
    await run.link.prepare(reason, deadline);
  };
}

export async function holdVcpus(
  { run }: SaveContext,
  deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  undo.defer(() =>
    run.vm.releaseVcpus(Deadline.after(undoBudgetMs, "releasing vCPUs after a failed save")),
  );
  await run.vm.holdVcpus(deadline);
}

export async function flushDisk({ run }: SaveContext, deadline: Deadline): Promise<void> {
  await run.vm.flushDisk(deadline);
}

/** A VMM that refuses the short way is asked for the long one, which every VMM knows. */
export async function saveDeviceState(context: SaveContext, deadline: Deadline): Promise<void> {
  const { run, log } = context;
  const path = join(stagedPath(context), snapshotFiles.deviceState);
  if (!context.saveWhole) {
    try {
      await run.vm.saveDeviceState(path, deadline);
      return;
    } catch (cause) {
      if (!TorporError.is(cause) || cause.code !== "vmm.failed") throw cause;
      log.warn("saving the devices alone was refused; saving everything", { cause });
    }
  }
  await run.vm.saveWholeState(path, deadline);
  context.savedWhole = true;
}

/** The disk is at rest too, and is flushed and summed meanwhile. */
export async function saveMemory(context: SaveContext): Promise<void> {
  context.disk = digestDisk(context);
  context.disk.catch(() => undefined); // seen by `publish`, if it comes so far
  await writeMemory(context, context.run.vm.memory);
}

/** Writes what differs from the layers below; nothing when the VMM has saved everything. */
export async function writeMemory(context: SaveContext, memory: ReadableMemory): Promise<void> {
  if (context.savedWhole === true) {
    context.memory = { kind: "whole" };
    return;
  }
  const { below, imagePath, snapshotId } = context;
  assert(below !== undefined, "the layers below are opened first");
  const digest: MemoryLayerDigest = await below.writeDifference(
    stagedPath(context),
    imagePath,
    memory,
  );
  const layers = [...layersBelow(context), { snapshotId, digest }];
  context.memory = { kind: "layers", layers };
}

/** The point of no return: from here on the snapshot is there whatever happens. */
export async function publish(context: SaveContext): Promise<void> {
  const { staged, memory, run } = context;
  assert(staged !== undefined && memory !== undefined, "the snapshot is written");
  await closeBelow(context);
  const { snapshotId, sandboxId, templateId, templateSha256, identity, hostKey } = context;
  const manifest: SnapshotManifest = {
    format: "torpor-snapshot-3",
    snapshotId,
    sandboxId,
    templateId,
    ...(templateSha256 === undefined ? {} : { templateSha256 }),
    generation: run.generation,
    createdAtMs: Date.now(),
    identity,
    commandLine: run.vm.commandLine(),
    hostKey,
    memory,
    deviceState: await digestChunks(join(staged.path, snapshotFiles.deviceState)),
    disk: await (context.disk ?? digestDisk(context)),
  };
  await staged.publish(manifest);
  context.published = manifest;
}

/** Layers that the snapshot before had are sealed; what this run wrote is flushed and summed. */
async function digestDisk(context: SaveContext): Promise<readonly SavedDiskLayer[]> {
  const { base, diskLayers, store } = context;
  const known = new Map(base?.disk.map((layer) => [layer.layerId, layer]));
  const layers: SavedDiskLayer[] = [];
  for (const layerId of diskLayers) {
    const sealed = known.get(layerId);
    if (sealed !== undefined) {
      layers.push(sealed);
      continue;
    }
    await flush(store.diskPath(layerId));
    layers.push({ layerId, digest: await digestChunks(store.diskPath(layerId)) });
  }
  return layers;
}

function layersBelow({
  base,
  beginsAnew,
}: SaveContext): Extract<SavedMemory, { kind: "layers" }>["layers"] {
  if (base?.memory.kind !== "layers" || beginsAnew === true) return [];
  return base.memory.layers.length < memoryLayersMax ? base.memory.layers : [];
}

function stagedPath({ staged }: SaveContext): string {
  assert(staged !== undefined, "the snapshot is staged before it is written");
  return staged.path;
}
