/**
 * How a sandbox wakes: from a template (create), from its own snapshot (resume) or from another
 * sandbox's snapshot (fork).
 *
 * The steps in order, and what undoes each; their budgets are in the list below:
 *
 *   1. check            what is on disk fits this machine and is undamaged
 *   2. read ahead       the memory that the guest will need, in the background  undo: stop it
 *   3. network          a network for this run alone                         undo: release it
 *   4. disk layer       an empty layer above the sealed ones                 undo: remove it
 *   5. start VMM        memory mapped privately over the template's image    undo: end the VM
 *                       or served by a pager, page by page
 *   6. load memory      the snapshot's layers over the image, where there is no pager
 *   7. load device state
 *   8. verify disk      the snapshot's disk layers are undamaged, read since step 1
 *   9. network policy   what the sandbox may reach, from its first instruction on
 *  10. release vCPUs    the guest continues where it was; user processes are still frozen
 *  11. wait until ready the agent answers
 *  12. init             entropy, clock, generation, identity, token; old connections destroyed; user
 *                       processes thawed, hooks last
 *
 * ORDER: memory is complete before device state is loaded, because loading a device reads its queues
 * in guest memory. No user instruction runs before step 12 has initialised the guest.
 *
 * A failure anywhere leaves the sandbox as it was: a paused one stays paused, a new one does not
 * exist.
 *
 * A spare sandbox runs steps 1 to 11 except 9 before anyone asks for it, then warms up and holds its
 * vCPUs; claiming it runs 9, 10 and 12 (see spares.ts). The warm-up sends an init with a generation
 * of its own, one below the sandbox's first, so that the real init renews everything again.
 */
import { mkdirSync } from "node:fs";
import { rm } from "node:fs/promises";
import { setImmediate as yieldToOthers } from "node:timers/promises";
import { type ClockReading, GuestLink, processClient } from "@torpor/guest";
import {
  type NetworkKind,
  type EgressRequest,
  type NewGuestNetwork,
  type Outside,
  createNetwork,
} from "@torpor/network";
import { countPages } from "@torpor/pager";
import { type InitRequest, guestAddressing } from "@torpor/protocol";
import { Deadline, type Step, TorporError, assert, ignoreFailure } from "@torpor/std";
import {
  type SandboxFolder,
  type SnapshotManifest,
  type Template,
  MemoryStack,
  type SnapshotStore,
  type StackedLayer,
  assertFreeSpace,
  createOverlay,
  verifyChunks,
} from "@torpor/storage";
import {
  type DiskLayer,
  type StartPager,
  type Vm,
  type VmmDriver,
  assertLoadable,
  assertSameMachine,
} from "@torpor/vmm";
import { Traffic } from "../edge/traffic.ts";
import { readImageAhead } from "../read-ahead.ts";
import { applyNetwork } from "../network-rules.ts";
import type { Pagers } from "../pagers.ts";
import type { WakeRecords } from "../working-sets.ts";
import { whileVmLives } from "./ended-vm.ts";
import type { SandboxRun } from "./run.ts";

/** LIMIT: space for a new layer and its metadata; what the guest writes later is not reserved. */
const newRunBytes = 16 * 1024 * 1024;
const bytesPerMiB = 1024 * 1024;
const endBudgetMs = 10_000;
/** The state is some 13 KiB and takes 10 ms to load; a whole save has the step's own budget. */
const devicesBudgetMs = 15_000;

/** Input of the steps of a wake, and fields that they fill in. */
export interface WakeContext {
  readonly sandboxId: string;
  readonly generation: number;
  readonly template: Template;
  /** SHA-256 of the template's content; undefined for a template without checksums. */
  readonly templateSha256: string | undefined;
  /** The snapshot to continue from; undefined for a new sandbox of a template. */
  readonly snapshot: SnapshotManifest | undefined;
  readonly store: SnapshotStore;
  readonly folder: SandboxFolder;
  /** The working set that an earlier wake recorded, and where this wake records its own. */
  readonly records: WakeRecords;
  /** Id of the layer that this run writes into, above the snapshot's. */
  readonly newDiskLayer: string;
  /** False for the children of a fork after the first: they use the same files. */
  readonly verifyDisk: boolean;
  readonly driver: VmmDriver;
  readonly pagers: Pagers;
  readonly networkKind: NetworkKind;
  /** The client's request for what the sandbox may reach; null: nothing was requested. */
  readonly networkRequest: EgressRequest | null;
  readonly outside: Outside;
  /** The init request, without the fields that are known only when it is sent. */
  readonly init: Omit<InitRequest, "entropy" | keyof ClockReading | "suspendedMs">;
  readonly entropy: () => string;
  /**
   * Checks the hash of fresh random bytes of the guest.
   * @throws guest.refused when it was seen before
   */
  readonly checkFresh: (randomHash: string) => void;
  /** The steps fill in this field and those below it. */
  startPager?: StartPager | undefined;
  memory?: Promise<MemoryStack> | undefined;
  diskVerified?: Promise<void>;
  network?: NewGuestNetwork;
  vm?: Vm;
  link?: GuestLink;
  randomHash?: string;
  /** Whether the guest may have run an instruction: until then the wake can be retried. */
  guestRan?: boolean;
}

const policyStep: Step<WakeContext> = {
  name: "network policy",
  budgetMs: 1_000,
  run: setNetworkPolicy,
};

/** The steps of a wake, in order. */
export const wakeSteps: readonly Step<WakeContext>[] = [
  { name: "check", budgetMs: 10_000, run: checkSources },
  { name: "read ahead", budgetMs: 5_000, run: readAheadMemory },
  { name: "network", budgetMs: 5_000, run: makeNetwork },
  { name: "disk layer", budgetMs: 5_000, run: addDiskLayer },
  { name: "start VMM", budgetMs: 15_000, run: startVmm },
  { name: "load memory", budgetMs: 60_000, run: loadMemory },
  { name: "load device state", budgetMs: 60_000, run: whileVmLives(loadDeviceState) },
  { name: "verify disk", budgetMs: 300_000, run: verifyDisk },
  policyStep,
  { name: "release vCPUs", budgetMs: 5_000, run: releaseVcpus },
  { name: "wait until ready", budgetMs: 30_000, run: whileVmLives(waitUntilReady) },
  { name: "init", budgetMs: 40_000, run: whileVmLives(initGuest) },
];

/** A spare's network stays closed, because its user's policy is not known yet. */
const beforeInit = wakeSteps.slice(0, -1).filter((step) => step !== policyStep);
const initStep = wakeSteps.slice(-1);

/** The steps that prepare a spare: as far as a sandbox can get before its user is known. */
export const spareSteps: readonly Step<WakeContext>[] = [
  ...beforeInit,
  { name: "warm up", budgetMs: 30_000, run: whileVmLives(warmUp) },
  { name: "hold vCPUs", budgetMs: 5_000, run: holdVcpus },
];

/** The steps that remain when a user claims a spare. */
export const claimSteps: readonly Step<WakeContext>[] = [
  policyStep,
  { name: "release vCPUs", budgetMs: 5_000, run: releaseVcpus },
  ...initStep,
];

/** Names of the steps of a spare, in order, for tests that make each of them fail. */
export const spareStepNames: readonly string[] = spareSteps.map(({ name }) => name);
/** Names of the steps of a claim, in order, for tests that make each of them fail. */
export const claimStepNames: readonly string[] = claimSteps.map(({ name }) => name);

/** The run that a completed list of steps has made. */
export function wokenRun(context: WakeContext): SandboxRun {
  const { vm, network, link, generation, randomHash, pagers } = context;
  assert(vm !== undefined && network !== undefined && link !== undefined, "the wake is finished");
  const pager = pagers.find(vm.handle.runFolder);
  const { begin } = context.records;
  return {
    generation,
    vm,
    network,
    link,
    pager,
    traffic: new Traffic(link),
    randomHash,
    workingSetPages: begin === undefined ? undefined : countPages(begin.workingSet),
  };
}

async function checkSources(context: WakeContext): Promise<void> {
  const { template, snapshot, store } = context;
  await assertFreeSpace(store.path, newRunBytes);
  const identity = await context.driver.identity();
  const { guestVisible, ...machine } = template.manifest.machine;
  const { kernelPath, initramfsPath } = template;
  const shape = { ...machine, kernelPath, initramfsPath };
  assertSameMachine(guestVisible, context.driver.guestVisible(shape));
  if (snapshot === undefined) {
    assertLoadable(template.manifest.identity, identity);
    await verifyChunks(template.deviceStatePath, template.manifest.deviceState);
    return;
  }
  assertLoadable(snapshot.identity, identity);
  if (snapshot.templateId !== template.manifest.templateId) {
    throw new TorporError("snapshot.incompatible", "the snapshot belongs to another template");
  }
  await verifyChunks(deviceStatePath(context), snapshot.deviceState);
  context.diskVerified = verifyDiskLayers(context, snapshot);
  // `verifyDisk` awaits it, if the wake gets that far.
  context.diskVerified.catch(() => undefined);
}

/** Starts early, so that the disk works while the VMM starts; no step waits for it. */
async function readAheadMemory(
  { template, records }: WakeContext,
  _deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  const stop = new AbortController();
  undo.defer(() => stop.abort());
  const reading = readImageAhead(template.memoryPath, records.begin?.workingSet, stop.signal);
  void ignoreFailure("a guest that waits for its memory gets it, too", reading);
}

async function verifyDiskLayers(
  { store, verifyDisk: wanted }: WakeContext,
  { disk }: SnapshotManifest,
): Promise<void> {
  if (!wanted) return;
  for (const { layerId, digest } of disk) await verifyChunks(store.diskPath(layerId), digest);
}

async function verifyDisk(context: WakeContext, deadline: Deadline): Promise<void> {
  await deadline.race(context.diskVerified ?? Promise.resolve());
}

async function makeNetwork(
  context: WakeContext,
  _deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  // Left by an earlier execution of this step whose answer was lost.
  context.network?.attachment[Symbol.dispose]();
  context.network?.[Symbol.dispose]();
  context.network = undo.use(
    await createNetwork(context.networkKind, guestAddressing, context.outside),
  );
  undo.use(context.network.attachment); // in case the VMM never takes its copy
}

async function addDiskLayer(
  context: WakeContext,
  _deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  const path = context.store.diskPath(context.newDiskLayer);
  undo.defer(() => rm(path, { force: true }));
  await createOverlay(path, context.template.manifest.diskBytes);
}

async function startVmm(
  context: WakeContext,
  deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  const { template, folder, generation, network, sandboxId } = context;
  assert(network !== undefined, "the network is made before the VMM starts");
  const runFolder = folder.run(generation);
  mkdirSync(runFolder, { recursive: true, mode: 0o700 });
  undo.defer(() => rm(runFolder, { recursive: true, force: true }));
  context.startPager = pagerOf(context, runFolder);
  await closeMemory(context); // left by an earlier execution of this step whose answer was lost
  context.memory = openMemory(context);
  undo.defer(() => closeMemory(context));
  using attachment = network.attachment;
  const vm = await context.driver.restore(
    {
      name: sandboxId,
      machine: {
        ...template.manifest.machine,
        kernelPath: template.kernelPath,
        initramfsPath: template.initramfsPath,
      },
      memoryPath: template.memoryPath,
      disk: diskLayers(context),
      network: attachment,
      readsLater: [deviceStatePath(context)],
      ...(context.startPager === undefined ? {} : { startPager: context.startPager }),
      runFolder,
    },
    deadline,
  );
  undo.defer(() => vm.end(Deadline.after(endBudgetMs, "ending a VM that was not needed")));
  context.vm = vm;
}

function diskLayers({
  template,
  snapshot,
  store,
  newDiskLayer,
}: WakeContext): readonly DiskLayer[] {
  const sealed = snapshot?.disk.map(({ layerId }) => layerId) ?? [];
  return [
    { path: template.diskPath, format: "raw" },
    ...[...sealed, newDiskLayer].map((layerId) => ({
      path: store.diskPath(layerId),
      format: "qcow2" as const,
    })),
  ];
}

/**
 * Opens and verifies the memory layers while the VMM starts.
 * @returns undefined if there is nothing to load
 */
function openMemory(context: WakeContext): Promise<MemoryStack> | undefined {
  const layers = memoryLayers(context);
  if (context.startPager !== undefined || layers.length === 0) return undefined;
  const opened = openStack(layers, memoryBytes(context.template));
  opened.catch(() => undefined); // `loadMemory` awaits it, if the wake gets that far
  return opened;
}

async function openStack(layers: readonly StackedLayer[], sizeBytes: number): Promise<MemoryStack> {
  await yieldToOthers(); // the VMM's process is started first
  const stack = await MemoryStack.open(layers, sizeBytes);
  stack.verifyAhead();
  return stack;
}

async function closeMemory({ memory }: WakeContext): Promise<void> {
  const stack = await memory?.catch(() => undefined);
  await stack?.[Symbol.asyncDispose]();
}

async function loadMemory(context: WakeContext, deadline: Deadline): Promise<void> {
  const { vm } = context;
  assert(vm !== undefined, "the VMM runs before memory is loaded");
  context.memory ??= openMemory(context);
  if (context.memory === undefined) return;
  await using stack = await deadline.race(context.memory);
  context.memory = undefined; // closed here; a retry of this step opens its own
  await vm.loadMemory(stack, deadline);
}

function memoryBytes({ manifest }: Template): number {
  return manifest.machine.memoryMiB * bytesPerMiB;
}

function memoryLayers({ snapshot, store }: WakeContext): readonly StackedLayer[] {
  return snapshot?.memory.kind === "layers" ? store.stacked(snapshot.memory.layers) : [];
}

/** Undefined if memory comes from a file, or is part of the device state. */
function pagerOf(context: WakeContext, runFolder: string): StartPager | undefined {
  const { driver, pagers, records, snapshot, template } = context;
  if (!driver.takesPager || snapshot?.memory.kind === "whole") return undefined;
  const memory = {
    imagePath: template.memoryPath,
    layers: memoryLayers(context),
    sizeBytes: memoryBytes(template),
  };
  return pagers.starterOf(memory, records, runFolder);
}

async function loadDeviceState(context: WakeContext, deadline: Deadline): Promise<void> {
  const holdsMemory = context.snapshot?.memory.kind === "whole";
  const budgetMs = holdsMemory ? deadline.remainingMs() : devicesBudgetMs;
  const own = deadline.sub(budgetMs, "loading device state");
  await context.vm?.loadDeviceState(deviceStatePath(context), own);
}

function deviceStatePath({ snapshot, store, template }: WakeContext): string {
  if (snapshot === undefined) return template.deviceStatePath;
  return store.deviceStatePath(snapshot.snapshotId);
}

async function setNetworkPolicy({ network, networkRequest }: WakeContext): Promise<void> {
  assert(network !== undefined, "the network is made before it has a policy");
  applyNetwork(network, networkRequest);
}

async function releaseVcpus(context: WakeContext, deadline: Deadline): Promise<void> {
  context.guestRan = true;
  await context.vm?.releaseVcpus(deadline);
}

async function waitUntilReady(
  context: WakeContext,
  deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<void> {
  const { network, snapshot, template } = context;
  assert(network !== undefined, "the network is there before it is dialled");
  // The key that the guest has in its saved memory.
  const { hostKey } = snapshot ?? template.manifest;
  context.link?.[Symbol.dispose](); // left by an execution of this step whose answer was lost
  const link = undo.use(new GuestLink({ dial: (port) => network.dial(port), hostKey }));
  context.link = link;
  await link.waitUntilReady(deadline);
}

async function initGuest(context: WakeContext, deadline: Deadline): Promise<void> {
  await sendInit(context, context.init, deadline);
}

async function sendInit(
  context: WakeContext,
  init: WakeContext["init"],
  deadline: Deadline,
): Promise<void> {
  const { entropy, link, snapshot, checkFresh } = context;
  assert(link !== undefined, "the guest is ready before it is initialised");
  const clock = await link.readClock(deadline);
  const { timestampMs } = clock;
  const suspendedMs = Math.max(0, timestampMs - (snapshot?.createdAtMs ?? timestampMs));
  const answer = await link.init({ ...init, entropy: entropy(), ...clock, suspendedMs }, deadline);
  checkFresh(answer.randomHash);
  context.randomHash = answer.randomHash;
}

/**
 * Runs once what every sandbox runs first, so that an emulator has already translated that code.
 * There is no user yet: the sandbox's own init, with its entropy and clock, comes later.
 */
async function warmUp(context: WakeContext, deadline: Deadline): Promise<void> {
  const { init, link } = context;
  assert(link !== undefined, "the guest is ready before it is warmed up");
  await sendInit(
    context,
    { ...init, generation: init.generation - 1, accessToken: null },
    deadline,
  );
  const events = processClient(link, null).start(
    { process: { cmd: "/bin/true" }, stdin: false },
    { signal: deadline.signal },
  );
  for await (const { event } of events) {
    if (event?.event.case === "end" && event.event.value.exitCode !== 0) {
      throw new TorporError("guest.refused", `/bin/true ended with ${event.event.value.status}`);
    }
  }
}

async function holdVcpus(context: WakeContext, deadline: Deadline): Promise<void> {
  await context.vm?.holdVcpus(deadline);
}
