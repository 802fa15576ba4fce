/**
 * How a running sandbox is saved and continues: for a user's snapshot, and for a fork.
 *
 * The steps in order, and what undoes each; their budgets are in the list below:
 *
 *   1. check space
 *   2. stage            a folder to write the snapshot into                  undo: remove it
 *   3. open layers      the snapshot before, which this one builds on        undo: close them
 *   4. make disk layer  empty, for what the guest writes from now on; the record names it, and the VMM
 *                       opens it                                             undo: close it
 *   5. hold requests    clients' new requests wait until the guest continues undo: let them in
 *   6. close idle       idle connections to the guest
 *   7. reach agent      over a new connection, which prepare then uses: that shortens the freeze
 *   8. prepare          hooks, no new work, user processes frozen            undo: cancel
 *   9. hold vCPUs       the instant of the snapshot                          undo: release
 *  10. add disk layer   what the guest wrote is sealed below it
 *  11. save device state
 *  12. capture memory   a copy of what may have changed
 *  13. release vCPUs
 *  14. thaw             user processes continue, with their connections; requests are let in
 *  15. save memory      what in the copy differs from the layers below
 *  16. publish          everything flushed, then renamed into place: the point of no return
 *
 * The guest stands still from 9 to 13 and its user processes from 8 to 14; all slow steps are outside.
 * A failure leaves the sandbox running. An extra disk layer that is left behind changes nothing:
 * empty, it reads as the layer below it.
 */
import { type MemoryMapping, mapTouched, pageBytes } from "@torpor/native";
import { Deadline, type Step, assert, flush, totalBytes } from "@torpor/std";
import { CapturedMemory, createOverlay } from "@torpor/storage";
import type { DiskLayer } from "@torpor/vmm";
import {
  type SaveContext,
  checkSpace,
  closeIdle,
  flushDisk,
  holdRequests,
  holdVcpus,
  openLayersBelow,
  prepareGuest,
  publish,
  saveDeviceState,
  saveMemory,
  stage,
  writeMemory,
} from "./save.ts";

/**
 * LIMIT: size of the copy in the daemon's memory. A guest that changed more waits until it is
 * written.
 */
const capturedBytesMax = 256 * 1024 * 1024;
const undoBudgetMs = 10_000;

/** Input of the steps of a checkpoint, and fields that they fill in. */
export interface CheckpointContext extends SaveContext {
  /** Id of the layer that the guest writes to from the checkpoint on. */
  readonly newDiskLayer: string;
  readonly diskBytes: number;
  /** Stores in the sandbox's record that it has the new layer, before the VM opens it. */
  readonly recordDiskLayer: () => Promise<void>;
  /** Memory for the copy, allocated while the guest still runs. */
  room?: MemoryMapping;
  /** The copy; undefined if the guest had changed too much, or the VMM saved everything. */
  captured?: CapturedMemory;
}

/** The steps of a checkpoint, in order. */
export const checkpointSteps: readonly Step<CheckpointContext>[] = [
  { name: "check space", budgetMs: 5_000, run: checkSpace },
  { name: "stage", budgetMs: 5_000, run: stage },
  { name: "open layers", budgetMs: 10_000, run: openLayersBelow },
  { name: "make disk layer", budgetMs: 5_000, run: makeDiskLayer },
  { name: "hold requests", budgetMs: 1_000, run: holdRequests },
  { name: "close idle", budgetMs: 1_000, run: closeIdle },
  { name: "reach agent", budgetMs: 30_000, run: reachAgent },
  { name: "prepare", budgetMs: 30_000, run: prepareGuest("checkpoint") },
  { name: "hold vCPUs", budgetMs: 5_000, run: holdVcpus },
  { name: "add disk layer", budgetMs: 30_000, run: addDiskLayer },
  { name: "save device state", budgetMs: 120_000, run: saveDeviceState },
  { name: "capture memory", budgetMs: 120_000, run: captureMemory },
  { name: "release vCPUs", budgetMs: 5_000, run: releaseVcpus },
  { name: "thaw", budgetMs: 30_000, run: thaw },
  { name: "save memory", budgetMs: 120_000, run: saveCaptured },
  { name: "publish", budgetMs: 60_000, commit: true, run: publish },
];

async function makeDiskLayer(
  context: CheckpointContext,
  deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  const { store, run, diskLayers, newDiskLayer, diskBytes, recordDiskLayer } = context;
  await createOverlay(store.diskPath(newDiskLayer), diskBytes);
  // The VMM flushes both while the guest stands still; flushing them now leaves little to do then.
  const written = [...diskLayers.slice(-1), newDiskLayer];
  await Promise.all(written.map((layerId) => flush(store.diskPath(layerId))));
  await recordDiskLayer();
  undo.defer(() =>
    run.vm.closeDiskLayer(layerOf(context), Deadline.after(undoBudgetMs, "closing a disk layer")),
  );
  await run.vm.openDiskLayer(layerOf(context), deadline);
  await makeRoom(context, bytesExpected(context), undo);
}

async function makeRoom(
  context: CheckpointContext,
  lengthBytes: number,
  undo: AsyncDisposableStack,
): Promise<MemoryMapping> {
  if (context.room !== undefined && context.room.lengthBytes >= lengthBytes) return context.room;
  context.room?.[Symbol.dispose]();
  context.room = undo.use(await mapTouched(Math.max(lengthBytes, pageBytes)));
  return context.room;
}

function layerOf({ store, newDiskLayer }: CheckpointContext): DiskLayer {
  return { path: store.diskPath(newDiskLayer), format: "qcow2" };
}

/** Somewhat more than the guest may have changed by now, because it still runs. */
function bytesExpected({ run }: CheckpointContext): number {
  const bytes = run.vm.memory.estimateOwnBytes();
  return Math.min(capturedBytesMax, bytes + bytes / 4);
}

async function reachAgent({ run }: CheckpointContext, deadline: Deadline): Promise<void> {
  await run.link.waitUntilReady(deadline);
}

async function addDiskLayer(context: CheckpointContext, deadline: Deadline): Promise<void> {
  await flushDisk(context, deadline);
  await context.run.vm.addDiskLayer(layerOf(context), deadline);
}

async function captureMemory(
  context: CheckpointContext,
  _deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  if (context.savedWhole === true) return;
  const { below, run } = context;
  assert(below !== undefined, "the layers below are opened first");
  const ranges = below.rangesToCompare(run.vm.memory);
  const lengthBytes = totalBytes(ranges);
  if (lengthBytes > capturedBytesMax) {
    await saveMemory(context);
    return;
  }
  const room = await makeRoom(context, lengthBytes, undo);
  context.captured = await CapturedMemory.capture(run.vm.memory, ranges, room);
}

async function releaseVcpus({ run }: CheckpointContext, deadline: Deadline): Promise<void> {
  await run.vm.releaseVcpus(deadline);
}

async function thaw({ run }: CheckpointContext, deadline: Deadline): Promise<void> {
  await run.link.cancel(deadline);
  run.traffic.release();
}

async function saveCaptured(context: CheckpointContext): Promise<void> {
  if (context.memory !== undefined) return; // already written, while the guest waited
  await writeMemory(context, context.captured ?? context.run.vm.memory);
  context.room?.[Symbol.dispose]();
}
