/**
 * The parts that a create and a resume share: the context of the wake, one retry where a fresh VMM
 * process may do better, and the record of a running sandbox.
 */
import { rm } from "node:fs/promises";
import { Deadline, TorporError, runSteps } from "@torpor/std";
import { newDiskLayerId, newGuestEntropy, newMachineIdentity } from "../entropy.ts";
import { begin } from "../lifecycle/lifetime.ts";
import { enter } from "../lifecycle/state.ts";
import type { SandboxRecord } from "../records/sandbox-records.ts";
import { type SandboxRun, endRun } from "../steps/run.ts";
import { type WakeContext, wakeSteps, wokenRun } from "../steps/wake.ts";
import type { Outcome } from "./command.ts";
import { attach } from "./run.ts";
import { assertMadeOver } from "./template-content.ts";
import { recordWorkingSet } from "./working-set.ts";
import type { Turn } from "./writer.ts";

const endBudgetMs = 15_000;
const guestUser = "user";
const bytesPerMiB = 1024 * 1024;

/** Further changes to the record as the sandbox begins to run. */
export type RecordChange = (nowMs: number) => Partial<SandboxRecord>;

const noChange: RecordChange = () => ({});

/**
 * Collects what the steps of a wake need, and stores the new generation. From here on the record of
 * a new sandbox names the layers it is built on, and the record of a resumed one says "resuming".
 * @param generations How many generations to take; the last is this wake's.
 * @throws template.missing, template.replaced, storage.failed, and whatever reading a template or a
 *   snapshot throws, such as snapshot.corrupt; the record is unchanged then
 */
export async function newWakeContext(
  turn: Turn,
  reason: "create" | "resume",
  snapshotId: string | null,
  generations: number,
): Promise<WakeContext> {
  const { host } = turn;
  const { id, templateId, hostKey, accessToken, envVars } = turn.record;
  await host.templates.assertWhole(templateId);
  const template = await host.templates.open(templateId);
  const snapshot = snapshotId === null ? undefined : await host.store.read(snapshotId);
  const templateSha256 = await host.templates.contentOf(templateId);
  if (snapshot !== undefined) assertMadeOver(snapshot, { templateId, sha256: templateSha256 });
  const savedGeneration = (snapshot ?? template.manifest).generation;
  const generation = Math.max(turn.record.generation, savedGeneration) + generations;
  const newDiskLayer = newDiskLayerId();
  const diskLayers = [...(snapshot?.disk.map(({ layerId }) => layerId) ?? []), newDiskLayer];
  const driver = host.driverOf(template.manifest);
  const records = await host.workingSets.plan({
    folder: turn.folder,
    templateId,
    snapshotId,
    isNew: reason === "create",
    sizeBytes: template.manifest.machine.memoryMiB * bytesPerMiB,
  });
  // ORDER: nothing fails between here and the wake; callers undo this only if the wake fails.
  await turn.save({
    generation,
    ...(reason === "create"
      ? { diskLayers }
      : { state: enter(turn.record.state, { kind: "resuming" }) }),
  });
  // A sandbox that was never saved continues from another's snapshot, with the other's identity.
  const isItself = snapshot?.sandboxId === id;
  return {
    sandboxId: id,
    generation,
    template,
    templateSha256,
    snapshot,
    store: host.store,
    folder: turn.folder,
    records,
    newDiskLayer,
    verifyDisk: true,
    driver,
    pagers: host.pagers,
    networkKind: host.networkKind,
    networkRequest: turn.record.network,
    outside: host.outside,
    init: {
      reason: isItself ? "resume" : snapshot === undefined ? "create" : "fork",
      machine: isItself ? null : newMachineIdentity(id),
      generation,
      hostKey,
      sandboxId: id,
      templateId,
      accessToken,
      envVars,
      defaultUser: guestUser,
      defaultWorkdir: null,
    },
    entropy: newGuestEntropy,
    checkFresh: (randomHash) => host.freshness.check(randomHash),
  };
}

/**
 * Runs the steps of a wake when the wake queue allows it, and moves the sandbox to "running".
 * Retries once if the VMM failed before the guest ran.
 * @throws host.busy, and whatever the steps throw
 */
export async function wake(
  turn: Turn,
  verb: "create" | "resume",
  context: WakeContext,
  change: RecordChange = noChange,
): Promise<Outcome> {
  const { store } = turn.host;
  using holds = new DisposableStack();
  holds.use(store.keep(context.newDiskLayer));
  if (context.snapshot !== undefined) holds.use(store.keep(context.snapshot.snapshotId));
  holds.use(await turn.host.wakeQueue.take());
  const first = { ...context };
  try {
    const timings = await runSteps(wakeSteps, first, turn.stepOptions(verb));
    return await enterRunning(turn, first, timings, change);
  } catch (cause) {
    if (first.guestRan === true || !isVmmTrouble(cause)) throw cause;
    turn.log.warn("the VMM did not load the guest; trying once more", { cause });
  }
  const second = { ...context, newDiskLayer: newDiskLayerId() };
  holds.use(store.keep(second.newDiskLayer));
  const timings = await runSteps(wakeSteps, second, turn.stepOptions(verb));
  return await enterRunning(turn, second, timings, change);
}

/**
 * Moves the sandbox to "running", with `change` applied, once its guest is initialised. If the
 * record cannot be stored, ends the VM.
 */
export async function enterRunning(
  turn: Turn,
  context: WakeContext,
  timings: Outcome["timings"],
  change: RecordChange = noChange,
): Promise<Outcome> {
  const run = wokenRun(context);
  const { snapshot, templateSha256 } = context;
  const sealed = snapshot?.disk.map(({ layerId }) => layerId) ?? [];
  const diskLayers = [...sealed, context.newDiskLayer];
  const nowMs = Date.now();
  await using undo = new AsyncDisposableStack();
  // A guest whose record cannot be written must not continue alongside its snapshot.
  undo.defer(() => endUnrecorded(turn, run));
  await turn.save({
    state: enter(turn.record.state, {
      kind: "running",
      vm: run.vm.handle,
      network: run.network.handle,
      openDisks: diskLayers,
      ...(run.pager === undefined || snapshot === undefined
        ? {}
        : { pagedFrom: snapshot.snapshotId }),
      ...(templateSha256 === undefined ? {} : { templateSha256 }),
    }),
    snapshotId: snapshot?.snapshotId ?? null,
    diskLayers,
    startedAtMs: nowMs,
    lifetime: begin(turn.record.lifetime, nowMs),
    ...change(nowMs),
  });
  undo.move();
  turn.base = context.snapshot;
  attach(turn, run);
  recordWorkingSet(turn, run, context.records);
  return { changed: true, timings };
}

async function endUnrecorded({ folder }: Turn, run: SandboxRun): Promise<void> {
  await endRun(run, Deadline.after(endBudgetMs, "ending a VM whose record was not written"));
  await rm(folder.run(run.generation), { recursive: true, force: true });
}

/** Failures that another VMM process may avoid. */
function isVmmTrouble(cause: unknown): boolean {
  return TorporError.is(cause) && ["deadline.exceeded", "vmm.exited"].includes(cause.code);
}
