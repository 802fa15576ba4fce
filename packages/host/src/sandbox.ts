/**
 * One sandbox and its single writer.
 *
 * Every request and every event of the VM goes through one queue, one at a time, so that no two
 * operations ever see the same sandbox. What is about to be done is stored before it is done; the
 * record and the run in memory change together, here only.
 *
 * Operations belong to the daemon: a caller that goes away changes nothing, and a caller that
 * repeats a request joins the queue and finds the sandbox already as asked.
 */
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { GuestLink } from "@torpor/guest";
import { reachNetwork } from "@torpor/network";
import { guestAddressing } from "@torpor/protocol";
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
import { SandboxFolder, removeOtherSnapshots, removeStagedSnapshots } from "@torpor/storage";
import { newGuestEntropy } from "./entropy.ts";
import type { HostContext } from "./host-context.ts";
import { type Verb, decide } from "./lifecycle/decide.ts";
import { type SandboxState, enter } from "./lifecycle/state.ts";
import type { SandboxRecord } from "./records/sandbox-records.ts";
import { type PauseContext, pauseSteps } from "./steps/pause.ts";
import { removeSteps } from "./steps/remove.ts";
import { type SandboxRun, endRun } from "./steps/run.ts";
import { type WakeContext, claimSteps, spareSteps, wakeSteps, wokenRun } from "./steps/wake.ts";

const endBudgetMs = 15_000;
const goOnBudgetMs = 5_000;
const guestUser = "user";

/** What a request did, and how long each step of it took. */
export interface Outcome {
  /** False when the sandbox already was as asked. */
  readonly changed: boolean;
  readonly timings: readonly StepTiming[];
}

const unchanged: Outcome = { changed: false, timings: [] };

export class Sandbox {
  readonly folder: SandboxFolder;
  readonly #host: HostContext;
  readonly #log: Logger;
  #record: SandboxRecord;
  #run: SandboxRun | undefined;
  /** What a spare has been prepared to, until somebody asks for it. */
  #spare: WakeContext | undefined;
  #queue: Promise<unknown> = Promise.resolve();
  #removed = false;

  constructor(host: HostContext, record: SandboxRecord) {
    this.#host = host;
    this.#record = record;
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
        const context = await this.#wakeContext(undefined, 2);
        const timings = await runSteps(spareSteps, context, this.#options("prepare"));
        this.#spare = context;
        return { changed: true, timings };
      }),
    );
  }

  /** Brings a new sandbox to life from its template. On failure nothing of it is left. */
  create(owner: Pick<SandboxRecord, "metadata" | "envVars">): Promise<Outcome> {
    return this.#enqueue(() =>
      this.#orNothing(async () => {
        await this.#save({ ...owner, createdAtMs: Date.now() });
        const spare = this.#spare;
        if (spare === undefined) return await this.#wake("create", undefined);
        const { envVars } = owner;
        const claimed = { ...spare, init: { ...spare.init, envVars } };
        const timings = await runSteps(claimSteps, claimed, this.#options("create"));
        this.#spare = undefined;
        return await this.#goOn(claimed, timings);
      }),
    );
  }

  pause(): Promise<Outcome> {
    return this.#enqueue(async () => {
      if (!this.#admit("pause")) return unchanged;
      return await this.#pause();
    });
  }

  resume(): Promise<Outcome> {
    return this.#enqueue(async () => {
      if (!this.#admit("resume")) {
        if (this.#run !== undefined) await this.#goOnIfHeld(this.#run);
        return unchanged;
      }
      const { snapshotGeneration } = this.#record;
      assert(snapshotGeneration !== null, "only a sandbox with a snapshot is resumed");
      const before = this.#record.state;
      await this.#endStrays();
      await this.#move({ kind: "resuming" });
      try {
        return await this.#wake("resume", snapshotGeneration);
      } catch (cause) {
        await this.#move({ kind: "paused" });
        this.#log.warn("resume failed and was undone", { cause, before: before.kind });
        throw cause;
      }
    });
  }

  remove(): Promise<Outcome> {
    return this.#enqueue(async () => {
      if (this.#removed) return unchanged;
      return { changed: true, timings: await this.#runRemove() };
    });
  }

  /** After a start of the daemon: takes over a VM that is still running, or settles what is left. */
  settle(): Promise<void> {
    return this.#enqueue(async () => {
      const { state } = this.#record;
      await removeStagedSnapshots(this.folder);
      switch (state.kind) {
        case "running":
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

  /** Lets go of the VM without ending it; another daemon will adopt it. */
  release(): Promise<void> {
    return this.#enqueue(async () => {
      const run = this.#run;
      this.#run = undefined;
      run?.link[Symbol.dispose]();
      run?.vm.release();
      run?.network[Symbol.dispose]();
    });
  }

  /** @throws sandbox.wrongState when the state does not allow it. @returns false for a repeat. */
  #admit(verb: Verb): boolean {
    if (this.#removed) {
      throw new TorporError("sandbox.notFound", `sandbox ${this.#record.id} was removed`);
    }
    const hasSnapshot = this.#record.snapshotGeneration !== null;
    const decision = decide(this.#record.state, verb, hasSnapshot);
    if (decision.kind === "deny") throw new TorporError("sandbox.wrongState", decision.reason);
    return decision.kind === "accept";
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

  async #wake(verb: "create" | "resume", snapshotGeneration: number | undefined): Promise<Outcome> {
    const context = await this.#wakeContext(snapshotGeneration, 1);
    const timings = await runSteps(wakeSteps, context, this.#options(verb));
    return await this.#goOn(context, timings);
  }

  /** Takes `generations` new ones, the last of which is this wake's. */
  async #wakeContext(
    snapshotGeneration: number | undefined,
    generations: number,
  ): Promise<WakeContext> {
    const template = await this.#host.templates.open(this.#record.templateId);
    const newest = Math.max(this.#record.generation, template.manifest.generation);
    const generation = newest + generations;
    await this.#save({ generation });
    return {
      sandboxId: this.#record.id,
      generation,
      template,
      snapshotGeneration,
      folder: this.folder,
      driver: this.#host.driverOf(template.manifest),
      networkKind: this.#host.networkKind,
      savedHostKey:
        snapshotGeneration === undefined ? template.manifest.hostKey : this.#record.hostKey,
      init: {
        reason: snapshotGeneration === undefined ? "create" : "resume",
        machine: null,
        suspendedMs: 0,
        generation,
        hostKey: this.#record.hostKey,
        sandboxId: this.#record.id,
        templateId: this.#record.templateId,
        accessToken: this.#record.accessToken,
        envVars: this.#record.envVars,
        defaultUser: guestUser,
        defaultWorkdir: null,
      },
      entropy: newGuestEntropy,
    };
  }

  /** The guest is initialised: from here on the sandbox is running. */
  async #goOn(context: WakeContext, timings: Outcome["timings"]): Promise<Outcome> {
    const run = wokenRun(context);
    await this.#save({
      state: enter(this.#record.state, {
        kind: "running",
        vm: run.vm.handle,
        network: run.network.handle,
      }),
      diskGenerations: [...(context.diskGenerations ?? []), run.generation],
      startedAtMs: Date.now(),
    });
    this.#attach(run);
    return { changed: true, timings };
  }

  #options(verb: string): RunStepsOptions {
    return { verb, failpoint: this.#host.failpoint };
  }

  async #pause(): Promise<Outcome> {
    const { state } = this.#record;
    const run = this.#run;
    assert(state.kind === "running" && run !== undefined, "a running sandbox has a run");
    // A guest that QEMU holds for want of disk space could not be prepared.
    await run.vm.releaseVcpus(Deadline.after(goOnBudgetMs, "letting the VM go on"));
    const template = await this.#host.templates.open(this.#record.templateId);
    const driver = this.#host.driverOf(template.manifest);
    const identity = { ...(await driver.identity()), version: run.vm.version };
    await this.#move({ ...state, kind: "pausing" });
    const context: PauseContext = {
      sandboxId: this.#record.id,
      templateId: this.#record.templateId,
      baseMemoryPath: template.memoryPath,
      folder: this.folder,
      run,
      identity,
      diskGenerations: this.#record.diskGenerations,
    };
    let published = false;
    try {
      const timings = await runSteps(pauseSteps, context, {
        ...this.#options("pause"),
        onTiming: ({ step }) => {
          published ||= step === "publish";
        },
      });
      await this.#settlePaused(run.generation);
      return { changed: true, timings };
    } catch (cause) {
      if (published) await this.#settlePublished(run);
      else await this.#move({ ...state, kind: "running" });
      throw cause;
    }
  }

  /** Publishing worked and ending the VM did not: it must not go on beside its snapshot. */
  async #settlePublished(run: SandboxRun): Promise<void> {
    try {
      await endRun(run, Deadline.after(endBudgetMs, "ending a VM whose snapshot is published"));
    } catch (cause) {
      this.#log.error("a VM cannot be ended; the next start of the daemon tries again", { cause });
    }
    await this.#settlePaused(run.generation);
  }

  /** The snapshot of `generation` is durable: the sandbox is paused, and older ones may go. */
  async #settlePaused(generation: number): Promise<void> {
    this.#run = undefined;
    await this.#save({
      state: enter(this.#record.state, { kind: "paused" }),
      snapshotGeneration: generation,
    });
    await removeOtherSnapshots(this.folder, generation);
    await this.#clearRuns();
  }

  async #runRemove(): Promise<readonly StepTiming[]> {
    if (this.#record.state.kind !== "removing") await this.#move({ kind: "removing" });
    const run = this.#run ?? (this.#spare === undefined ? undefined : wokenRun(this.#spare));
    if (run === undefined) await this.#endStrays();
    const context = {
      sandboxId: this.#record.id,
      folder: this.folder,
      records: this.#host.records,
      run,
    };
    const timings = await runSteps(removeSteps, context, this.#options("remove"));
    // Kept until here: the repeat of a removal that failed has to end the VM too.
    this.#run = undefined;
    this.#spare = undefined;
    this.#removed = true;
    return timings;
  }

  async #adopt(state: Extract<SandboxState, { kind: "running" | "pausing" }>): Promise<void> {
    const deadline = Deadline.after(endBudgetMs, "adopting a running VM");
    let run: SandboxRun;
    try {
      const vm = await this.#host.driver.adopt(state.vm, deadline);
      const network = reachNetwork(state.network, state.vm.pid, guestAddressing);
      const link = new GuestLink({
        dial: (port) => network.dial(port),
        hostKey: this.#record.hostKey,
      });
      run = { generation: this.#record.generation, vm, network, link };
    } catch (cause) {
      this.#log.warn("the VM did not outlive the daemon, or does not answer", { cause });
      await this.#endStrays();
      await this.#settleDead(state, TorporError.from(cause, "vmm.failed").rawMessage);
      return;
    }
    if (state.kind === "pausing") {
      await this.#settlePausing(state, run, deadline);
      return;
    }
    await this.#goOnIfHeld(run);
    this.#attach(run);
  }

  /**
   * A running VM may stand still: QEMU holds one whose disk met a full host disk, and an undone pause
   * may not have got through. Both calls do nothing to one that goes.
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

  /** The daemon ended in the middle of a pause and the VM is still there. */
  async #settlePausing(
    state: Extract<SandboxState, { kind: "pausing" }>,
    run: SandboxRun,
    deadline: Deadline,
  ): Promise<void> {
    if (await this.#isPublished(run.generation)) {
      await endRun(run, deadline);
      await this.#settlePaused(run.generation);
      return;
    }
    await this.#goOnIfHeld(run);
    await this.#move({ ...state, kind: "running" });
    this.#attach(run);
  }

  async #settleDead(
    state: Extract<SandboxState, { kind: "running" | "pausing" }>,
    reason: string,
  ): Promise<void> {
    if (state.kind === "pausing" && (await this.#isPublished(this.#record.generation))) {
      await this.#settlePaused(this.#record.generation);
      return;
    }
    await this.#move({ kind: "failed", reason: `no VM to take over: ${reason}` });
  }

  async #isPublished(generation: number): Promise<boolean> {
    await mkdir(this.folder.snapshots, { recursive: true, mode: 0o700 });
    return (await readdir(this.folder.snapshots)).includes(String(generation));
  }

  #attach(run: SandboxRun): void {
    this.#run = run;
    void run.vm.exited.then((exit) =>
      ignoreFailure(
        "the failure is in the log of the queue",
        this.#enqueue(async () => {
          if (this.#run !== run || this.#record.state.kind === "removing") return; // ended by us
          const reason = lastLine(exit.vmmTail) ?? lastLine(exit.consoleTail) ?? "no last words";
          this.#log.error("the VM ended by itself", { ...exit });
          this.#run = undefined;
          await endRun(run, Deadline.after(endBudgetMs, "clearing up after a VM that ended"));
          await this.#move({ kind: "failed", reason: `the VM ended by itself: ${reason}` });
        }),
      ),
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
    await this.#removeStrayDisks();
  }

  /** Layers of runs that were never finished belong to no state. */
  async #removeStrayDisks(): Promise<void> {
    await mkdir(this.folder.disks, { recursive: true, mode: 0o700 });
    const kept = new Set(this.#record.diskGenerations.map((one) => `${one}.qcow2`));
    for (const name of await readdir(this.folder.disks)) {
      if (!kept.has(name)) await rm(join(this.folder.disks, name), { force: true });
    }
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

function lastLine(text: string): string | undefined {
  return text.trim().split("\n").at(-1)?.trim() || undefined;
}
