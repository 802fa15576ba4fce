/**
 * All sandboxes of this daemon, with the snapshots and templates that they are made from: which there
 * are, how new ones come and old ones go, and what is done for all of them, settling what an earlier
 * daemon left first.
 *
 * What happens to one sandbox is its own affair (sandbox/); here is what takes more than one, or knows
 * what others stand upon.
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

/** LIMITS of one fork. Children start a few at a time, so that the first is there soon. */
export const forkCountMax = 100;
const forksAtOnce = 4;

export interface CreateRequest {
  /** Id or name of a template or a snapshot. */
  readonly template: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly envVars: Readonly<Record<string, string>>;
  readonly lifetime: LifetimeRequest;
  /** False: the guest's agent asks clients for no token. */
  readonly secure?: boolean;
  /** What it may reach; undefined or null when nothing is asked for. */
  readonly network?: NetworkRequest | null | undefined;
  /** Without it no traffic wakes it. */
  readonly autoResume?: AutoResume | undefined;
}

export interface ForkRequest {
  readonly count: number;
  readonly lifetime: LifetimeRequest;
}

/**
 * Told which ids what was asked for will have, before any of it is made, so that a daemon that is started
 * later can tell what became of it. Told again when others are taken after all.
 */
export type Decided = (ids: readonly string[]) => Promise<void>;

const undecided: Decided = () => Promise.resolve();

export interface Created {
  readonly sandbox: Sandbox;
  readonly outcome: Outcome;
}

export interface Forked {
  /** The instant that all children began from. */
  readonly snapshotId: string;
  readonly timings: Outcome["timings"];
  /** One for each child that was asked for, in order. */
  readonly children: readonly PromiseSettledResult<Created>[];
}

export class Sandboxes {
  readonly snapshots: Snapshots;
  readonly #host: HostContext;
  readonly #byId = new Map<string, Sandbox>();
  /** Spares and those in the making too. */
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
   * Opens the records and settles every sandbox in them before any request is taken. Most sleep and are
   * settled, so what is done for each of them here has to be next to nothing.
   */
  static async open(host: HostContext): Promise<Sandboxes> {
    const sandboxes = new Sandboxes(host, await Snapshots.open(host));
    const records = await host.records.all();
    for (const record of records) sandboxes.#byId.set(record.id, sandboxes.#make(record));
    await endStrayVms(host, records);
    // One that cannot be settled must not keep the daemon from serving the others.
    const unsettled = sandboxes.all().filter(({ record }) => !isAtRest(record.state));
    await Promise.allSettled(unsettled.map((sandbox) => sandbox.settle()));
    for (const sandbox of unsettled) {
      if (sandbox.record.state.kind === "removing") sandboxes.#forget(sandbox);
    }
    await removeStrayFolders(host, (id) => sandboxes.#byId.has(id));
    sandboxes.#upkeep.begin();
    return sandboxes;
  }

  get store(): SnapshotStore {
    return this.#host.store;
  }

  all(): readonly Sandbox[] {
    return [...this.#byId.values()];
  }

  find(id: string): Sandbox | undefined {
    return this.#byId.get(id);
  }

  /** Whether there is a sandbox or a snapshot of this id, neither half made nor half removed. */
  exists(id: string): boolean {
    const kind = this.find(id)?.record.state.kind;
    if (kind !== undefined) return kind !== "creating" && kind !== "removing";
    return this.snapshots.ids().includes(id);
  }

  /** @throws sandbox.notFound */
  get(id: string): Sandbox {
    const sandbox = this.find(id);
    if (sandbox === undefined) {
      throw new TorporError("sandbox.notFound", `there is no sandbox ${id}`);
    }
    return sandbox;
  }

  /**
   * @throws template.missing, argument.invalid and whatever the steps of a wake throw; nothing is left then.
   */
  async create(request: CreateRequest, decided = undecided): Promise<Created> {
    checkNetwork(request.network, this.#host.outside);
    const source = await findSource(this.#host, this.snapshots, request.template);
    using holds = new DisposableStack();
    if (source.snapshotId !== null) {
      holds.use(this.#host.store.keep(source.snapshotId));
      // Kept from here on; it may have been removed while its template was opened.
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
   * Makes new sandboxes that begin at this instant of another, which goes on, or sleeps on.
   * @throws sandbox.wrongState, sandbox.notFound and whatever saving throws; what becomes of each child
   *   is in its own result
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
    // The first has verified what all stand upon before the others begin.
    const first = await settleSome(ids.slice(0, 1), 1, (one) => child(one, true));
    const verify = first.some(({ status }) => status === "rejected");
    const others = await settleSome(ids.slice(1), forksAtOnce, (one) => child(one, verify));
    const { snapshotId, timings } = checkpoint;
    return { snapshotId, timings, children: [...first, ...others] };
  }

  /** @throws sandbox.notFound */
  async remove(id: string, command: Command = {}): Promise<Outcome> {
    const sandbox = this.get(id);
    const outcome = await sandbox.remove(command);
    if (!outcome.changed) return outcome;
    this.#forget(sandbox);
    return outcome;
  }

  /**
   * A snapshot that others are made from.
   * @param as What it shall be known by: a name, or a name and a tag. Another that has it loses it.
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
    // The one that a paused sandbox lies in may be a snapshot of a user already, or become one again.
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

  /** Sandboxes made from it keep what they stand upon. @throws template.missing */
  async removeSnapshot(reference: string): Promise<void> {
    const { id } = this.snapshots.get(reference);
    await this.snapshots.remove(id);
    await this.#spares.drop(id);
  }

  /**
   * Removes a template that no sandbox and no snapshot stands upon.
   * @throws argument.invalid when one does, template.missing
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

  /** Keeps `count` sandboxes of a snapshot ready. @throws template.missing */
  async setPool(reference: string, count: number): Promise<void> {
    const { id } = this.snapshots.get(reference);
    await this.snapshots.setPool(id, count);
    this.#spares.refill(await findSource(this.#host, this.snapshots, id));
  }

  /** Why a sandbox still runs although its time is over. */
  missedDeadline(sandbox: Sandbox): MissedDeadline | undefined {
    return this.#deadlines.missed(sandbox);
  }

  get sparesReady(): number {
    return this.#spares.readyCount;
  }

  /** Makes spares of a template or snapshot, so that the first request finds one. */
  async prepareSpares(reference: string): Promise<void> {
    this.#spares.refill(await findSource(this.#host, this.snapshots, reference));
  }

  /** Settles when what is done in the background is done. */
  async idle(): Promise<void> {
    await this.#upkeep.idle();
  }

  /**
   * Pauses whatever runs. Those that cannot be go on running, and the log says why.
   * @param signal When it aborts, no further one is begun with.
   */
  async pauseAll(signal?: AbortSignal): Promise<void> {
    const running = this.all().filter(({ run }) => run !== undefined);
    await settleSome(running, forksAtOnce, async (sandbox) => {
      signal?.throwIfAborted();
      await sandbox.pause();
    });
  }

  /** Lets go of all VMs, which go on running; spares are nobody's and end. */
  async release(): Promise<void> {
    this.#deadlines[Symbol.dispose]();
    await this.#spares.end();
    await this.#upkeep.end();
    await Promise.allSettled(this.all().map((sandbox) => sandbox.release()));
  }

  /** @throws also when the spare could not be claimed; it is gone then */
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

/** What a fork has of its parent; its token is its own, if the parent has one. */
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

/** Does `work` for each, at most `atOnce` at a time; the results are in order. */
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
