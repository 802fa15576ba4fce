/**
 * The steps that a pause and a checkpoint share: how a running guest becomes a published snapshot.
 *
 * Each function is one step; pause.ts and checkpoint.ts put them in order. A snapshot builds on the
 * one before it: its memory layer holds what changed since, and its disk is all layers up to the
 * instant.
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
/**
 * LIMIT: memory layers below a new one. Above a longer chain, which has not been compacted yet, the
 * save writes all of memory.
 */
const memoryLayersMax = 16;
/** The guest answers a cancel once its hooks have run. */
const undoBudgetMs = 20_000;

/** Input of the steps of a save, and fields that they fill in. */
export interface SaveContext {
  readonly snapshotId: string;
  readonly sandboxId: string;
  readonly templateId: string;
  /** SHA-256 of the content of the template that the VM has mapped. */
  readonly templateSha256: string | undefined;
  /** Path of the template's memory image. */
  readonly imagePath: string;
  readonly hostKey: string;
  readonly store: SnapshotStore;
  readonly run: SandboxRun;
  readonly identity: SavedIdentity;
  /** The newest snapshot of this sandbox. */
  readonly base: SnapshotManifest | undefined;
  /** Ids of the disk layers of this instant, oldest first. */
  readonly diskLayers: readonly string[];
  /** Save everything by the VMM's own means, instead of only the differences. */
  readonly saveWhole: boolean;
  /** How long requests in flight have to finish before a pause. */
  readonly drainMs: number;
  readonly log: Logger;
  /** The steps fill in this field and those below it. */
  staged?: StagedSnapshot;
  below?: MemoryStack;
  /** Set when the layers below are unusable: the save then writes all of memory. */
  beginsAnew?: boolean;
  memory?: SavedMemory;
  disk?: Promise<readonly SavedDiskLayer[]>;
  /** Set when the VMM saved everything: no memory layer is then written. */
  savedWhole?: boolean;
  published?: SnapshotManifest;
}

/**
 * Step: checks for free space. A VMM that saves everything writes nearly all of memory, however
 * little of it the guest has changed.
 * @throws storage.noSpace when there is too little
 */
export async function checkSpace({ run, store, saveWhole }: SaveContext): Promise<void> {
  const { memory } = run.vm;
  const memoryBytes = saveWhole ? memory.sizeBytes : memory.estimateOwnBytes();
  await assertFreeSpace(store.path, memoryBytes + snapshotOverheadBytes);
}

/** Step: creates the folder that the snapshot is written into. */
export async function stage(
  context: SaveContext,
  _deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  context.staged = undo.use(await context.store.stage(context.snapshotId));
}

/**
 * Step: opens the layers that the snapshot builds on, before the guest is disturbed. A damaged map
 * or a missing file is found here and only makes the save longer, because the guest has the pages.
 */
export async function openLayersBelow(
  context: SaveContext,
  _deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  await closeBelow(context); // left by an earlier execution of this step whose answer was lost
  try {
    await openStack(context, undo);
  } catch (cause) {
    await beginAnew(context, undo, cause);
  }
}

/** Prepares to write all of memory. @throws `cause`, unless the layers below are damaged */
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

/** Step: from here on clients' new requests wait for the outcome of the save. */
export async function holdRequests(
  { run }: SaveContext,
  _deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  undo.use(run.traffic.hold());
}

/** Step: closes idle connections to the guest. */
export async function closeIdle({ run }: SaveContext): Promise<void> {
  run.traffic.closeIdle();
  run.link.closeIdle();
}

/** Step: the agent prepares the guest for the snapshot and freezes its user processes. */
export function prepareGuest(
  reason: PrepareReason,
): (context: SaveContext, deadline: Deadline, undo: AsyncDisposableStack) => Promise<void> {
  return async ({ run }, deadline, undo) => {
    // ORDER: the undo comes first, as a prepare whose answer was lost has frozen the guest too.
    undo.defer(async () => {
      await run.link.cancel(Deadline.after(undoBudgetMs, "thawing the guest after a failed save"));
    });
    await run.link.prepare(reason, deadline);
  };
}

/** Step: stops the vCPUs; this is the instant of the snapshot. */
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

/** Step: the VMM writes to the disk layer what the guest has written. */
export async function flushDisk({ run }: SaveContext, deadline: Deadline): Promise<void> {
  await run.vm.flushDisk(deadline);
}

/**
 * Step: saves the state of the devices alone. If the VMM refuses, saves everything, which every VMM
 * can.
 */
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

/**
 * Step: saves memory. The disk is at rest too, so its layers are flushed and digested in parallel.
 */
export async function saveMemory(context: SaveContext): Promise<void> {
  context.disk = digestDisk(context);
  context.disk.catch(() => undefined); // `publish` awaits it, if the save gets that far
  await writeMemory(context, context.run.vm.memory);
}

/** Writes what differs from the layers below; writes nothing when the VMM has saved everything. */
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

/**
 * Step: publishes the snapshot. The point of no return: after it the snapshot exists, whatever
 * happens.
 */
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

/**
 * Layers of the snapshot before are sealed and keep their digests; what this run wrote is flushed
 * and digested.
 */
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
