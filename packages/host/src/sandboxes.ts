/**
 * All sandboxes of this daemon, with the snapshots and templates that they are made from: which
 * exist, how they are created and removed, and what is done for all of them, beginning with
 * settling what an earlier daemon left.
 *
 * The files of `sandbox/` handle a single sandbox. This one handles what takes more than one, or
 * depends on the layers that others are built on.
 */
import { TorporError } from "@torpor/std";
import type { SnapshotStore } from "@torpor/storage";
import { Deadlines, type MissedDeadline } from "./deadlines.ts";
import { newSandboxId, newSecret, newSnapshotId } from "./entropy.ts";
import type { HostContext } from "./host-context.ts";
import { type LifetimeRequest, newLifetime } from "./lifecycle/lifetime.ts";
import type { NetworkRequest } from "./network-request.ts";
import { checkNetwork } from "./network-rules.ts";
import type { AutoResume } from "./records/sandbox-records.ts";
import type { Command, Outcome } from "./sandbox/command.ts";
import { Sandbox, type SandboxEvents } from "./sandbox/sandbox.ts";
import { isAtRest } from "./sandbox/settle.ts";
import { Snapshots } from "./snapshots.ts";
import { type Source, findSource } from "./source.ts";
import { Spares } from "./spares.ts";
import { endStrayVms, removeStrayFolders } from "./strays.ts";
import { parseNewName } from "./template-tags.ts";
import { Upkeep } from "./upkeep.ts";

/** LIMIT: children of one fork. `forksAtOnce` of them start at a time: the first is ready soon. */
export const forkCountMax = 100;
const forksAtOnce = 4;

/** A client's request for a new sandbox. */
export interface CreateRequest {
  /** Id or name of a template or a snapshot. */
  readonly template: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly envVars: Readonly<Record<string, string>>;
  readonly lifetime: LifetimeRequest;
  /** False: the guest's agent requires no token from clients. */
  readonly secure?: boolean;
  /** The network that the client requests; undefined or null: nothing in particular. */
  readonly network?: NetworkRequest | null | undefined;
  /** Undefined: no traffic wakes it. */
  readonly autoResume?: AutoResume | undefined;
}

/** A client's request for the children of a fork. */
export interface ForkRequest {
  readonly count: number;
  readonly lifetime: LifetimeRequest;
}

/**
 * Receives the ids that a request will make, before any of it is made, so that a later daemon can
 * tell what became of them. Called again if other ids are used after all.
 */
export type Decided = (ids: readonly string[]) => Promise<void>;

const undecided: Decided = () => Promise.resolve();

/** A new sandbox, and how long its steps took. */
export interface Created {
  readonly sandbox: Sandbox;
  readonly outcome: Outcome;
}

/** The result of a fork. */
export interface Forked {
  /** The snapshot that all children started from. */
  readonly snapshotId: string;
  readonly timings: Outcome["timings"];
  /** One result for each requested child, in order. */
  readonly children: readonly PromiseSettledResult<Created>[];
}

/** All sandboxes of this daemon, by id. */
export class Sandboxes {
  readonly snapshots: Snapshots;
  readonly #host: HostContext;
  readonly #byId = new Map<string, Sandbox>();
  /** Every sandbox that exists, including spares and those that are being created. */
  readonly #everyone = new Set<Sandbox>();
  readonly #spares: Spares;
  readonly #deadlines: Deadlines;
  readonly #upkeep: Upkeep;
  readonly #events: SandboxEvents = {
    saved: (sandbox) => this.#upkeep.after(sandbox),
    timed: (sandbox) => this.#deadlines.watch(sandbox),
    removed: (sandbox) => this.#everyone.delete(sandbox),
  };

  private constructor(host: HostContext, snapshots: Snapshots) {
    this.#host = host;
    this.snapshots = snapshots;
    this.#spares = new Spares((source) => this.#newSandbox(source, newSandboxId()));
    this.#deadlines = new Deadlines(
      {
        pause: (sandbox, command) => sandbox.pause(command),
        kill: ({ record }, command) => this.remove(record.id, command),
      },
      host.log,
    );
    this.#upkeep = new Upkeep({
      store: host.store,
      workingSets: host.workingSets,
      templateIds: () => host.templates.ids(),
      templateOf: async (id) => (await host.templates.open(id)).manifest,
      log: host.log,
    });
  }

  /**
   * Opens the records and settles every sandbox in them, before any request is accepted. Most are
   * paused and need no settling, so the work here for each of them must be next to nothing.
   */
  static async open(host: HostContext): Promise<Sandboxes> {
    const sandboxes = new Sandboxes(host, await Snapshots.open(host));
    const records = await host.records.all();
    for (const record of records) sandboxes.#byId.set(record.id, sandboxes.#make(record));
    await endStrayVms(host, records);
    // A sandbox that cannot be settled must not keep the daemon from serving the others.
    const unsettled = sandboxes.all().filter(({ record }) => !isAtRest(record.state));
    await Promise.allSettled(unsettled.map((sandbox) => sandbox.settle()));
    for (const sandbox of unsettled) {
      if (sandbox.record.state.kind === "removing") sandboxes.#forget(sandbox);
    }
    await removeStrayFolders(host, (id) => sandboxes.#byId.has(id));
    sandboxes.#upkeep.begin();
    return sandboxes;
  }

  /** The store of every snapshot and disk layer. */
  get store(): SnapshotStore {
    return this.#host.store;
  }

  /** Every sandbox that has an owner; spares are not among them. */
  all(): readonly Sandbox[] {
    return [...this.#byId.values()];
  }

  /** The sandbox with this id, or undefined. */
  find(id: string): Sandbox | undefined {
    return this.#byId.get(id);
  }

  /** Whether a sandbox or a snapshot has this id, neither half made nor half removed. */
  exists(id: string): boolean {
    const kind = this.find(id)?.record.state.kind;
    if (kind !== undefined) return kind !== "creating" && kind !== "removing";
    return this.snapshots.ids().includes(id);
  }

  /** The sandbox with this id. @throws sandbox.notFound */
  get(id: string): Sandbox {
    const sandbox = this.find(id);
    if (sandbox === undefined) {
      throw new TorporError("sandbox.notFound", `there is no sandbox ${id}`);
    }
    return sandbox;
  }

  /**
   * Creates a sandbox from a template or a snapshot, from a spare if there is one.
   * @throws template.missing, argument.invalid and whatever the steps of a wake throw; nothing is
   *   left then
   */
  async create(request: CreateRequest, decided = undecided): Promise<Created> {
    checkNetwork(request.network, this.#host.outside);
    const source = await findSource(this.#host, this.snapshots, request.template);
    using holds = new DisposableStack();
    if (source.snapshotId !== null) {
      holds.use(this.#host.store.keep(source.snapshotId));
      // The snapshot is kept from here on, but may have been removed while its template was opened.
      if (this.snapshots.find(source.snapshotId) === undefined) {
        throw new TorporError("template.missing", `${request.template} has just been removed`);
      }
    }
    const spare = this.#spares.take(source);
    if (spare !== undefined) {
      try {
        return await this.#claim(spare, request, decided);
      } catch (cause) {
        this.#host.log.warn("a spare sandbox was of no use; making another", { cause });
      }
    }
    const id = newSandboxId();
    await decided([id]);
    return await this.#bring(this.#newSandbox(source, id), request);
  }

  /**
   * Creates sandboxes that start from this instant of another one, which keeps running, or stays
   * paused.
   * @throws sandbox.wrongState, sandbox.notFound and whatever saving throws; each child has its own
   *   result
   */
  async fork(
    id: string,
    request: ForkRequest,
    command: Command = {},
    decided = undecided,
  ): Promise<Forked> {
    const parent = this.get(id);
    const ids = Array.from({ length: request.count }, newSandboxId);
    await decided(ids);
    using checkpoint = await parent.checkpoint(command);
    const { templateId, templateName } = parent.record;
    const inherited = heritageOf(parent, request.lifetime);
    const source: Source = {
      id: checkpoint.snapshotId,
      name: templateName,
      template: (await this.#host.templates.open(templateId)).manifest,
      snapshotId: checkpoint.snapshotId,
      spareCount: 0,
    };
    const child = async (childId: string, verifyDisk: boolean): Promise<Created> =>
      await this.#bring(this.#newSandbox(source, childId), inherited, verifyDisk);
    // The first child verifies the layers that all are built on, before the others start.
    const first = await settleSome(ids.slice(0, 1), 1, (one) => child(one, true));
    const verify = first.some(({ status }) => status === "rejected");
    const others = await settleSome(ids.slice(1), forksAtOnce, (one) => child(one, verify));
    const { snapshotId, timings } = checkpoint;
    return { snapshotId, timings, children: [...first, ...others] };
  }

  /** Removes a sandbox. @throws sandbox.notFound, and whatever the steps of a removal throw */
  async remove(id: string, command: Command = {}): Promise<Outcome> {
    const sandbox = this.get(id);
    const outcome = await sandbox.remove(command);
    if (!outcome.changed) return outcome;
    this.#forget(sandbox);
    return outcome;
  }

  /**
   * Takes a snapshot that sandboxes can be created from.
   * @param as Its name, or a name and a tag; a snapshot that has it loses it. Null: no name.
   * @returns the snapshot's id
   * @throws what a checkpoint throws; argument.invalid
   */
  async takeSnapshot(
    id: string,
    as: string | null,
    command: Command = {},
    decided = undecided,
  ): Promise<string> {
    const sandbox = this.get(id);
    const reference = as === null ? undefined : parseNewName(as);
    if (reference !== undefined) await this.snapshots.assertNameFree(reference.name);
    const snapshotId = newSnapshotId();
    await decided([snapshotId]);
    using checkpoint = await sandbox.checkpoint(command, snapshotId);
    using holds = new DisposableStack();
    holds.use(this.#host.store.keep(snapshotId));
    // A paused sandbox's own snapshot may be a user's already, or be requested again: copy it.
    if (!checkpoint.isNew) await this.#host.store.copy(checkpoint.snapshotId, snapshotId);
    await this.snapshots.add(
      {
        id: snapshotId,
        sandboxId: id,
        templateId: sandbox.record.templateId,
        createdAtMs: Date.now(),
      },
      reference,
    );
    return snapshotId;
  }

  /**
   * Removes a snapshot. Sandboxes made from it keep the layers that they are built on.
   * @throws template.missing
   */
  async removeSnapshot(reference: string): Promise<void> {
    const { id } = this.snapshots.get(reference);
    await this.snapshots.remove(id);
    await this.#spares.drop(id);
  }

  /**
   * Removes a template that no sandbox and no snapshot is built on.
   * @throws argument.invalid when one is, template.missing
   */
  async removeTemplate(reference: string): Promise<void> {
    const { templateId } = (await this.#host.templates.open(this.#host.tags.resolve(reference)))
      .manifest;
    await this.#spares.drop(templateId);
    const users = [...this.#everyone].filter(({ record }) => record.templateId === templateId);
    const snapshots = this.snapshots.all().filter((one) => one.templateId === templateId);
    if (users.length + snapshots.length > 0) {
      throw new TorporError(
        "argument.invalid",
        `${users.length} sandboxes and ${snapshots.length} snapshots stand upon the template`,
        { advice: "Remove them first." },
      );
    }
    await this.#host.templates.remove(templateId);
    await this.#host.tags.forget(templateId);
    await this.#host.workingSets.remove([templateId]);
  }

  /** Keeps `count` spare sandboxes of a snapshot ready. @throws template.missing */
  async setPool(reference: string, count: number): Promise<void> {
    const { id } = this.snapshots.get(reference);
    await this.snapshots.setPool(id, count);
    this.#spares.refill(await findSource(this.#host, this.snapshots, id));
  }

  /** Why a sandbox still runs although its time is over. */
  missedDeadline(sandbox: Sandbox): MissedDeadline | undefined {
    return this.#deadlines.missed(sandbox);
  }

  /** How many spares are ready, of all sources. */
  get sparesReady(): number {
    return this.#spares.readyCount;
  }

  /**
   * Prepares spares of a template or snapshot, so that the first request finds one.
   * @throws template.missing
   */
  async prepareSpares(reference: string): Promise<void> {
    this.#spares.refill(await findSource(this.#host, this.snapshots, reference));
  }

  /** Settles when the background work requested so far is done. */
  async idle(): Promise<void> {
    await this.#upkeep.idle();
  }

  /**
   * Pauses every running sandbox. One that cannot be paused keeps running, and the log says why.
   * @param signal When it aborts, no further pause is started.
   */
  async pauseAll(signal?: AbortSignal): Promise<void> {
    const running = this.all().filter(({ run }) => run !== undefined);
    await settleSome(running, forksAtOnce, async (sandbox) => {
      signal?.throwIfAborted();
      await sandbox.pause();
    });
  }

  /** Lets go of all VMs, which keep running. Spares belong to no one and end. */
  async release(): Promise<void> {
    this.#deadlines[Symbol.dispose]();
    await this.#spares.end();
    await this.#upkeep.end();
    await Promise.allSettled(this.all().map((sandbox) => sandbox.release()));
  }

  /** @throws also when the spare could not be claimed; it is removed then */
  async #claim(spare: Sandbox, request: CreateRequest, decided: Decided): Promise<Created> {
    try {
      await decided([spare.record.id]);
    } catch (cause) {
      await spare.remove();
      throw cause;
    }
    return await this.#bring(spare, request);
  }

  async #bring(
    sandbox: Sandbox,
    request: Omit<CreateRequest, "template">,
    verifyDisk = true,
  ): Promise<Created> {
    const { id, accessToken } = sandbox.record;
    const { metadata, envVars, lifetime, secure, network, autoResume } = request;
    this.#byId.set(id, sandbox);
    try {
      const owner = {
        metadata,
        envVars,
        lifetime: newLifetime(lifetime),
        accessToken: secure === false ? null : accessToken,
        network: network ?? null,
        autoResume: autoResume ?? null,
      };
      return { sandbox, outcome: await sandbox.create(owner, verifyDisk) };
    } catch (cause) {
      this.#forget(sandbox);
      throw cause;
    }
  }

  #newSandbox({ template, name, snapshotId }: Source, id: string): Sandbox {
    const now = Date.now();
    return this.#make({
      id,
      templateId: template.templateId,
      templateName: name,
      generation: 0,
      snapshotId,
      previousSnapshotId: null,
      state: { kind: "creating" },
      diskLayers: [],
      lifetime: newLifetime({}),
      hostKey: newSecret(),
      accessToken: newSecret(),
      metadata: {},
      envVars: {},
      createdAtMs: now,
      startedAtMs: now,
      network: null,
      autoResume: null,
    });
  }

  #make(record: Sandbox["record"]): Sandbox {
    const sandbox = new Sandbox(this.#host, record, this.#events);
    this.#everyone.add(sandbox);
    return sandbox;
  }

  #forget(sandbox: Sandbox): void {
    this.#byId.delete(sandbox.record.id);
  }
}

/**
 * The parts of a parent's record that a fork inherits. It gets a token of its own, if the parent
 * has one.
 */
function heritageOf(
  { record }: Sandbox,
  lifetime: LifetimeRequest,
): Omit<CreateRequest, "template"> {
  const { metadata, envVars, accessToken, network, autoResume } = record;
  return {
    metadata,
    envVars,
    lifetime: { ...lifetime, onTimeout: lifetime.onTimeout ?? record.lifetime.onTimeout },
    secure: accessToken !== null,
    network,
    autoResume: autoResume ?? undefined,
  };
}

/** Runs `work` for each thing, at most `atOnce` at a time; the results are in order. */
async function settleSome<T, R>(
  things: readonly T[],
  atOnce: number,
  work: (thing: T) => Promise<R>,
): Promise<readonly PromiseSettledResult<R>[]> {
  const results: PromiseSettledResult<R>[] = [];
  const left = things.entries();
  const worker = async (): Promise<void> => {
    for (const [index, thing] of left) {
      const [result] = await Promise.allSettled([work(thing)]);
      results[index] = result;
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, things.length) }, worker));
  return results;
}
