/**
 * One sandbox and its single writer.
 *
 * Every request and every event of the VM goes through one queue, one at a time, so that no two
 * operations ever see the same sandbox. What is about to be done is stored before it is done; the
 * record and the run in memory change together, here only.
 *
 * Operations belong to the daemon: a caller that goes away changes nothing, and a caller that
 * repeats a request joins the queue and finds the sandbox already as asked. A request may name the
 * epoch it was made for, which is the generation of the run; one that comes too late is refused.
 */
import { mkdir, rm } from "node:fs/promises";
import {
  Deadline,
  type Logger,
  type RunStepsOptions,
  type StepTiming,
  TorporError,
  assert,
  ignoreFailure,
  runSteps,
} from "@torpor/std";
import { parseNetworkPolicy } from "@torpor/network";
import { SandboxFolder, type SnapshotManifest } from "@torpor/storage";
import type { VmExit } from "@torpor/vmm";
import { Activity } from "./activity.ts";
import { newDiskLayerId, newGuestEntropy, newMachineIdentity, newSnapshotId } from "./entropy.ts";
import type { HostContext } from "./host-context.ts";
import { applyNetwork } from "./network-rules.ts";
import { type Admission, type Verb, decide } from "./lifecycle/decide.ts";
import { begin, extend, rest, setTimeoutMs } from "./lifecycle/lifetime.ts";
import { type RunningVm, type SandboxState, enter } from "./lifecycle/state.ts";
import { type NetworkRequest, openNetwork } from "./network-request.ts";
import type { SandboxRecord } from "./records/sandbox-records.ts";
import { checkpointSteps } from "./steps/checkpoint.ts";
import { pauseSteps } from "./steps/pause.ts";
import { removeSteps } from "./steps/remove.ts";
import { type SandboxRun, adoptRun, endRun } from "./steps/run.ts";
import type { SaveContext } from "./steps/save.ts";
import { type WakeContext, claimSteps, spareSteps, wakeSteps, wokenRun } from "./steps/wake.ts";

const endBudgetMs = 15_000;
/** The guest answers a cancel once its hooks have run. */
const goOnBudgetMs = 20_000;
const guestUser = "user";
/** LIMIT: of what a VM that ended by itself said last, as far as its record keeps it. */
const lastLinesMax = 20;

/** What a request did, and how long each step of it took. */
export interface Outcome {
  /** False when the sandbox already was as asked. */
  readonly changed: boolean;
  readonly timings: readonly StepTiming[];
}

/** The instant of a sandbox; disposing it lets it be collected, unless somebody else needs it. */
export interface Checkpoint extends Disposable {
  readonly snapshotId: string;
  /** Whether it was taken now; that of a paused sandbox has been there before. */
  readonly isNew: boolean;
  readonly timings: readonly StepTiming[];
}

export interface Command {
  /** The run it is meant for; whichever there is, when it names none. */
  readonly epoch?: number | undefined;
  /** Asked when its turn in the queue has come: if not, nothing is done. */
  readonly stillWanted?: (() => boolean) | undefined;
}

export interface ResumeCommand extends Command {
  /**
   * From the resume on, in place of what was left; null: for ever. One that runs already gets at least
   * this long, and keeps what it has if that is more.
   */
  readonly timeoutMs?: number | null | undefined;
  /** What happens when the time of the run is over, from now on. */
  readonly onTimeout?: "kill" | "pause" | undefined;
  /** Go on from the snapshot before the newest one, which is given up. */
  readonly previous?: boolean | undefined;
}

/** What a new sandbox has of whoever asked for it. */
export type SandboxOwner = Pick<
  SandboxRecord,
  "metadata" | "envVars" | "lifetime" | "accessToken" | "network" | "autoResume"
>;

/** Who is told, and when. */
export interface SandboxEvents {
  /** What the sandbox stands upon has changed: something may be folded or collected. */
  saved(sandbox: Sandbox): void;
  /** A run begins, its lifetime is set anew, or it is over. */
  timed(sandbox: Sandbox): void;
  /** Nothing is left of it: it needs nothing any more. */
  removed(sandbox: Sandbox): void;
}

const unchanged: Outcome = { changed: false, timings: [] };

export class Sandbox {
  readonly folder: SandboxFolder;
  readonly activity = new Activity();
  readonly #host: HostContext;
  readonly #events: SandboxEvents;
  readonly #log: Logger;
  #record: SandboxRecord;
  #run: SandboxRun | undefined;
  /** What a spare has been prepared to, until somebody asks for it. */
  #spare: WakeContext | undefined;
  #queue: Promise<unknown> = Promise.resolve();
  #removed = false;

  constructor(host: HostContext, record: SandboxRecord, events: SandboxEvents) {
    this.#host = host;
    this.#record = record;
    this.#events = events;
    this.#log = host.log.child({ sandboxId: record.id });
    this.folder = new SandboxFolder(host.stateFolder, record.id);
  }

  get record(): SandboxRecord {
    return this.#record;
  }

  /** The running VM, or undefined. */
  get run(): SandboxRun | undefined {
    return this.#run;
  }

  /** Goes as far as a sandbox can without knowing whose it will be; `create` does the rest. */
  prepareSpare(): Promise<Outcome> {
    return this.#enqueue(() =>
      this.#orNothing(async () => {
        // The warm-up's own init takes a generation, too.
        const context = await this.#wakeContext("create", this.#record.snapshotId, 2);
        const timings = await runSteps(spareSteps, context, this.#options("prepare"));
        this.#spare = context;
        return { changed: true, timings };
      }),
    );
  }

  /**
   * Brings a new sandbox to life, from its template or the snapshot it was made with. On failure
   * nothing of it is left.
   * @param verifyDisk False when the same layers have just been verified or written.
   */
  create(owner: SandboxOwner, verifyDisk = true): Promise<Outcome> {
    return this.#enqueue(() =>
      this.#orNothing(async () => {
        await this.#save({ ...owner, createdAtMs: Date.now() });
        const spare = this.#spare;
        if (spare === undefined) {
          const context = await this.#wakeContext("create", this.#record.snapshotId, 1);
          return await this.#wake("create", { ...context, verifyDisk });
        }
        const { envVars, accessToken, network } = owner;
        const claimed = {
          ...spare,
          networkRequest: network,
          init: { ...spare.init, envVars, accessToken },
        };
        const timings = await runSteps(claimSteps, claimed, this.#options("create"));
        this.#spare = undefined;
        return await this.#goOn(claimed, timings);
      }),
    );
  }

  pause(command: Command = {}): Promise<Outcome> {
    return this.#enqueue(async () => {
      if (command.stillWanted?.() === false) return unchanged;
      if (!this.#admit("pause", command)) return unchanged;
      return await this.#pause();
    });
  }

  resume(command: ResumeCommand = {}): Promise<Outcome> {
    return this.#enqueue(async () => {
      if (!this.#admit("resume", command)) {
        if (command.previous === true) throw this.#notAsleep();
        if (this.#run !== undefined) await this.#goOnIfHeld(this.#run);
        if (command.timeoutMs !== undefined) await this.#extend(command.timeoutMs);
        return unchanged;
      }
      return await this.#resume(command);
    });
  }

  /** An instant of this sandbox, which goes on: a new snapshot of a running one, the last of a paused. */
  checkpoint(command: Command = {}): Promise<Checkpoint> {
    return this.#enqueue(async () => {
      const isNew = this.#admit("checkpoint", command);
      const timings = isNew ? await this.#checkpoint() : [];
      const { snapshotId } = this.#record;
      assert(snapshotId !== null, "a checkpoint has a snapshot");
      const kept = this.#host.store.keep(snapshotId);
      return { snapshotId, isNew, timings, [Symbol.dispose]: () => kept[Symbol.dispose]() };
    });
  }

  remove(command: Command = {}): Promise<Outcome> {
    return this.#enqueue(async () => {
      if (this.#removed || command.stillWanted?.() === false) return unchanged;
      this.#admit("remove", command);
      return { changed: true, timings: await this.#runRemove() };
    });
  }

  /**
   * From now on, in place of what was asked for before; a sandbox that sleeps wakes with it.
   * @throws argument.invalid, network.unenforceable, sandbox.notFound; then nothing has changed
   */
  setNetwork(asked: Partial<NetworkRequest> | null, command: Command = {}): Promise<void> {
    const request = asked === null ? null : { ...openNetwork, ...asked };
    return this.#enqueue(async () => {
      this.#refuseStale(command);
      if (request !== null) parseNetworkPolicy(request);
      const before = this.#record.network;
      if (this.#run !== undefined) applyNetwork(this.#run.network, request);
      try {
        await this.#save({ network: request });
      } catch (cause) {
        if (this.#run !== undefined) applyNetwork(this.#run.network, before);
        throw cause;
      }
    });
  }

  /** From now on; null: never. @throws sandbox.notFound for one that was removed */
  setTimeoutMs(timeoutMs: number | null, command: Command = {}): Promise<void> {
    return this.#enqueue(async () => {
      this.#refuseStale(command);
      await this.#setTimeoutMs(timeoutMs);
    });
  }

  /** Gives it at least this long from now, if it runs. @throws sandbox.notFound */
  extendTimeoutMs(timeoutMs: number, command: Command = {}): Promise<void> {
    return this.#enqueue(async () => {
      this.#refuseStale(command);
      await this.#extend(timeoutMs);
    });
  }

  /** The equal of a snapshot of this sandbox, in fewer layers: stands in its place from now on. */
  takeFold(before: SnapshotManifest, after: SnapshotManifest): Promise<void> {
    return this.#enqueue(async () => {
      if (this.#removed || this.#record.snapshotId !== before.snapshotId) return;
      const above = this.#record.diskLayers.slice(before.disk.length);
      await this.#save({
        snapshotId: after.snapshotId,
        diskLayers: [...after.disk.map(({ layerId }) => layerId), ...above],
      });
      this.#log.info("layers were folded", {
        memoryLayers: after.memory.kind === "layers" ? after.memory.layers.length : 0,
        diskLayers: after.disk.length,
      });
    });
  }

  /** Lets a VM go on that its VMM holds for want of disk space, once there may be room again. */
  endStall(): Promise<void> {
    return this.#enqueue(async () => {
      const run = this.#run;
      if (run === undefined) return;
      const deadline = Deadline.after(goOnBudgetMs, "looking after a stalled VM");
      if (!(await run.vm.isStalled(deadline))) return;
      this.#log.warn("the VM stands still: the host's disk failed a write; trying again");
      await run.vm.releaseVcpus(deadline);
    });
  }

  /** After a start of the daemon: takes over a VM that is still running, or settles what is left. */
  settle(): Promise<void> {
    return this.#enqueue(async () => {
      const { state } = this.#record;
      switch (state.kind) {
        case "running":
        case "checkpointing":
        case "pausing":
          await this.#adopt(state);
          break;
        case "resuming":
          await this.#clearRuns();
          await this.#move({ kind: "paused" });
          break;
        case "creating":
        case "removing":
          await this.#runRemove();
          break;
        case "paused":
          await this.#clearRuns();
          break;
        case "failed":
          break; // its console and logs stay readable until it is removed
      }
    });
  }

  /** Settles when what was asked for so far is done, well or not. */
  async whenIdle(): Promise<void> {
    await this.#queue;
  }

  /** Lets go of the VM without ending it; another daemon will adopt it. */
  release(): Promise<void> {
    return this.#enqueue(async () => {
      const run = this.#run;
      this.#run = undefined;
      run?.traffic[Symbol.dispose]();
      run?.link[Symbol.dispose]();
      run?.vm.release();
      run?.network[Symbol.dispose]();
      this.#events.timed(this);
    });
  }

  /** @throws sandbox.wrongState when the state does not allow it. @returns false for a repeat. */
  #admit(verb: Verb, { epoch }: Command): boolean {
    const { state, snapshotId, generation } = this.#record;
    if (this.#removed) throw this.#gone();
    const admission: Admission = {
      state,
      verb,
      hasSnapshot: snapshotId !== null,
      epoch: generation,
      wantedEpoch: epoch,
    };
    const decision = decide(admission);
    if (decision.kind === "stale") throw new TorporError("sandbox.stale", decision.reason);
    if (decision.kind === "deny") throw new TorporError("sandbox.wrongState", decision.reason);
    return decision.kind === "accept";
  }

  /** For requests that every state allows. */
  #refuseStale(command: Command): void {
    this.#admit("remove", command);
  }

  /** One that goes on was not asked to: what it has done since would be lost without a word. */
  #notAsleep(): TorporError {
    const { id } = this.#record;
    return new TorporError("sandbox.wrongState", "the sandbox is running and cannot go back", {
      advice: `Pause it first: \`torpor resume --previous ${id}\` then goes back to the snapshot before that pause.`,
    });
  }

  #gone(): TorporError {
    return new TorporError("sandbox.notFound", `sandbox ${this.#record.id} was removed`);
  }

  /** Runs what makes this sandbox, which begins with its record; if it fails, nothing is left. */
  async #orNothing<T>(work: () => Promise<T>): Promise<T> {
    await mkdir(this.folder.path, { recursive: true, mode: 0o700 });
    try {
      return await work();
    } catch (cause) {
      await this.#runRemove();
      throw cause;
    }
  }

  async #wake(
    verb: "create" | "resume",
    context: WakeContext,
    change: (nowMs: number) => Partial<SandboxRecord> = () => ({}),
  ): Promise<Outcome> {
    using holds = new DisposableStack();
    holds.use(this.#host.store.keep(context.newDiskLayer));
    if (context.snapshot !== undefined) {
      holds.use(this.#host.store.keep(context.snapshot.snapshotId));
    }
    holds.use(await this.#host.wakeTurns.take());
    const first = { ...context };
    try {
      const timings = await runSteps(wakeSteps, first, this.#options(verb));
      return await this.#goOn(first, timings, change);
    } catch (cause) {
      if (first.guestRan === true || !isVmmTrouble(cause)) throw cause;
      this.#log.warn("the VMM did not load the guest; trying once more", { cause });
    }
    const second = { ...context, newDiskLayer: newDiskLayerId() };
    holds.use(this.#host.store.keep(second.newDiskLayer));
    const timings = await runSteps(wakeSteps, second, this.#options(verb));
    return await this.#goOn(second, timings, change);
  }

  /**
   * Takes `generations` new ones, the last of which is this wake's. A new sandbox's record names from
   * here on what it stands upon.
   */
  async #wakeContext(
    reason: "create" | "resume",
    snapshotId: string | null,
    generations: number,
  ): Promise<WakeContext> {
    const { id, templateId, hostKey, accessToken, envVars } = this.#record;
    const template = await this.#host.templates.open(templateId);
    const snapshot = snapshotId === null ? undefined : await this.#host.store.read(snapshotId);
    const savedGeneration = (snapshot ?? template.manifest).generation;
    const generation = Math.max(this.#record.generation, savedGeneration) + generations;
    const newDiskLayer = newDiskLayerId();
    const diskLayers = [...(snapshot?.disk.map(({ layerId }) => layerId) ?? []), newDiskLayer];
    await this.#save(reason === "create" ? { generation, diskLayers } : { generation });
    // A sandbox that was never saved goes on from a snapshot of another: in memory it is that one still.
    const isItself = snapshot?.sandboxId === id;
    return {
      sandboxId: id,
      generation,
      template,
      snapshot,
      store: this.#host.store,
      folder: this.folder,
      newDiskLayer,
      verifyDisk: true,
      driver: this.#host.driverOf(template.manifest),
      networkKind: this.#host.networkKind,
      networkRequest: this.#record.network,
      outside: this.#host.outside,
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
      checkFresh: (randomHash) => this.#host.freshness.check(randomHash),
    };
  }

  /** The guest is initialised: from here on the sandbox is running, with what else has changed. */
  async #goOn(
    context: WakeContext,
    timings: Outcome["timings"],
    change: (nowMs: number) => Partial<SandboxRecord> = () => ({}),
  ): Promise<Outcome> {
    const run = wokenRun(context);
    const sealed = context.snapshot?.disk.map(({ layerId }) => layerId) ?? [];
    const diskLayers = [...sealed, context.newDiskLayer];
    const nowMs = Date.now();
    await using undo = new AsyncDisposableStack();
    // A guest whose record cannot be written must not go on beside its snapshot.
    undo.defer(() => this.#endUnrecorded(run));
    await this.#save({
      state: enter(this.#record.state, {
        kind: "running",
        vm: run.vm.handle,
        network: run.network.handle,
        openDisks: diskLayers,
      }),
      snapshotId: context.snapshot?.snapshotId ?? null,
      diskLayers,
      startedAtMs: nowMs,
      lifetime: begin(this.#record.lifetime, nowMs),
      ...change(nowMs),
    });
    undo.move();
    this.#attach(run);
    return { changed: true, timings };
  }

  async #endUnrecorded(run: SandboxRun): Promise<void> {
    await endRun(run, Deadline.after(endBudgetMs, "ending a VM whose record was not written"));
    await rm(this.folder.run(run.generation), { recursive: true, force: true });
  }

  #options(verb: string): RunStepsOptions {
    return { verb, failpoint: this.#host.failpoint };
  }

  async #resume({ previous, timeoutMs, onTimeout }: ResumeCommand): Promise<Outcome> {
    const before = this.#record;
    const snapshotId = previous === true ? before.previousSnapshotId : before.snapshotId;
    if (snapshotId === null) {
      throw new TorporError("sandbox.wrongState", "there is no snapshot before the newest one");
    }
    const context = await this.#wakeContext("resume", snapshotId, 1).catch((cause: unknown) => {
      throw this.#withWayBack(cause, previous === true);
    });
    await this.#endStrays();
    await this.#move({ kind: "resuming" });
    const change = (nowMs: number): Partial<SandboxRecord> => {
      const { lifetime } = before;
      const kept = begin(lifetime, nowMs);
      const timed =
        timeoutMs === undefined ? kept : setTimeoutMs(lifetime, timeoutMs, nowMs, nowMs);
      return {
        ...(previous === true ? { previousSnapshotId: null } : {}),
        lifetime: { ...timed, onTimeout: onTimeout ?? lifetime.onTimeout },
      };
    };
    try {
      return await this.#wake("resume", context, change);
    } catch (cause) {
      await this.#move(before.state.kind === "failed" ? before.state : { kind: "paused" });
      this.#log.warn("resume failed and was undone", { cause, before: before.state.kind });
      throw this.#withWayBack(cause, previous === true);
    }
  }

  /** A damaged snapshot is not the end of a sandbox that has an older one. */
  #withWayBack(cause: unknown, triedPrevious: boolean): unknown {
    const damaged = TorporError.is(cause) && cause.code === "snapshot.corrupt";
    if (!damaged || triedPrevious || this.#record.previousSnapshotId === null) return cause;
    return new TorporError(cause.code, cause.rawMessage, {
      cause,
      effect: "none",
      advice: `Go back to the pause before with \`torpor resume --previous ${this.#record.id}\`; what came after it is lost.`,
    });
  }

  async #pause(): Promise<Outcome> {
    const { run, running } = await this.#beforeSave();
    const snapshotId = newSnapshotId();
    using holds = new DisposableStack();
    holds.use(this.#host.store.keep(snapshotId));
    const context = await this.#saveContext(snapshotId, run);
    await this.#move({ ...running, kind: "pausing", snapshotId });
    let published = false;
    try {
      const timings = await runSteps(pauseSteps, context, {
        ...this.#options("pause"),
        onTiming: ({ step }) => {
          published ||= step === "publish";
        },
      });
      await this.#settlePaused(snapshotId);
      return { changed: true, timings };
    } catch (cause) {
      if (published) await this.#settlePublished(run, snapshotId);
      else await this.#move({ ...running, kind: "running" });
      throw cause;
    }
  }

  async #checkpoint(): Promise<readonly StepTiming[]> {
    const { run, running } = await this.#beforeSave();
    const snapshotId = newSnapshotId();
    const newDiskLayer = newDiskLayerId();
    using holds = new DisposableStack();
    holds.use(this.#host.store.keep(snapshotId, newDiskLayer));
    const saving = await this.#saveContext(snapshotId, run);
    const { diskBytes } = (await this.#host.templates.open(this.#record.templateId)).manifest;
    let vm: RunningVm = running;
    const recordDiskLayer = async (): Promise<void> => {
      vm = { ...running, openDisks: [...running.openDisks, newDiskLayer] };
      await this.#save({
        diskLayers: [...this.#record.diskLayers, newDiskLayer],
        state: { ...vm, kind: "checkpointing", snapshotId },
      });
    };
    await this.#move({ ...running, kind: "checkpointing", snapshotId });
    try {
      const context = { ...saving, newDiskLayer, diskBytes, recordDiskLayer };
      const timings = await runSteps(checkpointSteps, context, this.#options("checkpoint"));
      await this.#save({
        state: enter(this.#record.state, { ...vm, kind: "running" }),
        snapshotId,
        previousSnapshotId: this.#record.snapshotId,
      });
      this.#events.saved(this);
      return timings;
    } catch (cause) {
      await this.#move({ ...vm, kind: "running" });
      throw cause;
    }
  }

  async #beforeSave(): Promise<{ run: SandboxRun; running: RunningVm }> {
    const { state } = this.#record;
    const run = this.#run;
    assert(state.kind === "running" && run !== undefined, "a running sandbox has a run");
    // A guest that QEMU holds for want of disk space could not be prepared.
    await run.vm.releaseVcpus(Deadline.after(goOnBudgetMs, "letting the VM go on"));
    const { vm, network, openDisks } = state;
    return { run, running: { vm, network, openDisks } };
  }

  async #saveContext(snapshotId: string, run: SandboxRun): Promise<SaveContext> {
    const { id, templateId, hostKey, diskLayers } = this.#record;
    const template = await this.#host.templates.open(templateId);
    const driver = this.#host.driverOf(template.manifest);
    const base = this.#record.snapshotId;
    return {
      snapshotId,
      sandboxId: id,
      templateId,
      imagePath: template.memoryPath,
      hostKey,
      store: this.#host.store,
      run,
      identity: { ...(await driver.identity()), version: run.vm.version },
      base: base === null ? undefined : await this.#host.store.read(base),
      diskLayers,
      saveWhole: this.#host.saveWhole,
      drainMs: this.#host.drainMs,
      log: this.#log,
    };
  }

  /** Publishing worked and ending the VM did not: it must not go on beside its snapshot. */
  async #settlePublished(run: SandboxRun, snapshotId: string): Promise<void> {
    run.traffic.cut("paused");
    try {
      await endRun(run, Deadline.after(endBudgetMs, "ending a VM whose snapshot is published"));
    } catch (cause) {
      this.#log.error("a VM cannot be ended; the next start of the daemon tries again", { cause });
    }
    await this.#settlePaused(snapshotId);
  }

  /** The snapshot is durable: the sandbox is paused. */
  async #settlePaused(snapshotId: string): Promise<void> {
    this.#run = undefined;
    const { lifetime, startedAtMs } = this.#record;
    await this.#save({
      state: enter(this.#record.state, { kind: "paused" }),
      snapshotId,
      previousSnapshotId: this.#record.snapshotId,
      lifetime: rest(lifetime, startedAtMs, Date.now()),
    });
    await this.#clearRuns();
    this.#events.saved(this);
    this.#events.timed(this);
  }

  async #runRemove(): Promise<readonly StepTiming[]> {
    if (this.#record.state.kind !== "removing") await this.#move({ kind: "removing" });
    const run = this.#run ?? (this.#spare === undefined ? undefined : wokenRun(this.#spare));
    const context = {
      sandboxId: this.#record.id,
      endStrays: () => this.#endStrays(),
      folder: this.folder,
      records: this.#host.records,
      run,
    };
    const timings = await runSteps(removeSteps, context, this.#options("remove")).catch(
      (cause: unknown) => {
        throw halfRemoved(cause);
      },
    );
    // Kept until here: the repeat of a removal that failed has to end the VM too.
    this.#run = undefined;
    this.#spare = undefined;
    this.#removed = true;
    this.#events.timed(this);
    this.#events.removed(this);
    return timings;
  }

  async #adopt(
    state: Extract<SandboxState, { kind: "running" | "checkpointing" | "pausing" }>,
  ): Promise<void> {
    const deadline = Deadline.after(endBudgetMs, "adopting a running VM");
    const published = state.kind === "pausing" && (await this.#host.store.has(state.snapshotId));
    let run: SandboxRun;
    try {
      run = await adoptRun(this.#host.driver, state, this.#record, this.#host.outside, deadline);
    } catch (cause) {
      this.#log.warn("the VM did not outlive the daemon, or does not answer", { cause });
      await this.#endStrays();
      if (published) await this.#settlePaused(state.snapshotId);
      else
        await this.#settleDead(
          `no VM to take over: ${TorporError.from(cause, "vmm.failed").rawMessage}`,
          [],
        );
      return;
    }
    if (published) {
      await endRun(run, deadline);
      await this.#settlePaused(state.snapshotId);
      return;
    }
    try {
      applyNetwork(run.network, this.#record.network);
    } catch (cause) {
      this.#log.warn("a sandbox that was taken over reaches nothing", { cause });
    }
    await this.#goOnIfHeld(run);
    const { vm, network, openDisks } = state;
    if (state.kind !== "running") await this.#move({ kind: "running", vm, network, openDisks });
    this.#attach(run);
  }

  /**
   * A running VM may stand still: QEMU holds one whose disk met a full host disk, and a save that was
   * undone may not have got through. Both calls do nothing to one that goes.
   */
  async #goOnIfHeld(run: SandboxRun): Promise<void> {
    const deadline = Deadline.after(goOnBudgetMs, "letting a VM go on");
    try {
      await run.vm.releaseVcpus(deadline);
      await run.link.cancel(deadline);
    } catch (cause) {
      this.#log.warn("a running VM does not answer", { cause });
    }
  }

  async #settleDead(reason: string, lastLines: readonly string[]): Promise<void> {
    const { lifetime, startedAtMs } = this.#record;
    await this.#save({
      state: enter(this.#record.state, { kind: "failed", reason, lastLines }),
      lifetime: rest(lifetime, startedAtMs, Date.now()),
    });
    this.#events.timed(this);
  }

  #attach(run: SandboxRun): void {
    this.#run = run;
    this.activity.touch();
    this.#events.timed(this);
    void run.vm.exited.then((exit) =>
      ignoreFailure(
        "the failure is in the log of the queue",
        this.#enqueue(() => this.#onExit(run, exit)),
      ),
    );
  }

  async #onExit(run: SandboxRun, exit: VmExit): Promise<void> {
    if (this.#run !== run || this.#record.state.kind === "removing") return; // ended by us
    const lastLines = [...linesOf(exit.consoleTail), ...linesOf(exit.vmmTail)].slice(-lastLinesMax);
    this.#log.error("the VM ended by itself", { ...exit });
    this.#run = undefined;
    await endRun(run, Deadline.after(endBudgetMs, "clearing up after a VM that ended"));
    await this.#settleDead(
      `the VM ended by itself: ${lastLines.at(-1) ?? "no last words"}`,
      lastLines,
    );
  }

  /** Ends VMs of this sandbox that no run knows, such as one that cannot be adopted. */
  async #endStrays(): Promise<void> {
    for (const stray of await this.#host.driver.processesBelow(this.folder.path)) {
      this.#log.warn("ending a VM that could not be reached", { pid: stray.pid });
      await stray.end(Deadline.after(endBudgetMs, "ending a stray VM"));
    }
  }

  /** Removes the folders of VM runs; only called while none is running. */
  async #clearRuns(): Promise<void> {
    await rm(this.folder.runs, { recursive: true, force: true });
  }

  async #setTimeoutMs(timeoutMs: number | null): Promise<void> {
    const { lifetime, startedAtMs } = this.#record;
    const runningSinceMs = this.#run === undefined ? undefined : startedAtMs;
    await this.#save({ lifetime: setTimeoutMs(lifetime, timeoutMs, runningSinceMs, Date.now()) });
    this.#events.timed(this);
  }

  async #extend(timeoutMs: number | null): Promise<void> {
    if (this.#run === undefined) return;
    await this.#save({ lifetime: extend(this.#record.lifetime, timeoutMs, Date.now()) });
    this.#events.timed(this);
  }

  async #move(to: SandboxState): Promise<void> {
    await this.#save({ state: enter(this.#record.state, to) });
  }

  async #save(change: Partial<SandboxRecord>): Promise<void> {
    const record = { ...this.#record, ...change };
    await this.#host.records.save(record);
    this.#record = record;
  }

  #enqueue<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work);
    this.#queue = result.catch((cause: unknown) => {
      this.#log.warn("operation failed", { cause });
    });
    return result;
  }
}

/** What a VMM process of its own may do better. */
function isVmmTrouble(cause: unknown): boolean {
  return TorporError.is(cause) && ["deadline.exceeded", "vmm.exited"].includes(cause.code);
}

/** Nothing of a removal is undone: the sandbox can only be removed after it, whatever was left. */
function halfRemoved(cause: unknown): TorporError {
  const { code, rawMessage, details } = TorporError.from(cause, "internal");
  return new TorporError(code, rawMessage, {
    cause,
    effect: "maybe",
    details,
    advice: "Remove it again; the next start of the daemon does so, too.",
  });
}

function linesOf(text: string): readonly string[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
}
