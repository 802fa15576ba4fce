/**
 * The single writer of a sandbox.
 *
 * INVARIANT: what is known of a sandbox, its record and its run, changes in a turn only. Turns are taken
 * one at a time, in the order they were asked for, so that no two operations ever see the same sandbox.
 * `SandboxWriter.take` is the only way to a `Turn`: a function that is given one has the sandbox to
 * itself until it settles, and one that is given none can but look.
 *
 * What is about to be done is stored before it is done, and the record in memory is the one in the
 * database. What has come of it is so whatever the database says, on a full disk perhaps: it is believed at
 * once, and stored as soon as it can be, before anything else is begun with the sandbox. Until then the
 * database holds what was begun, and the next daemon settles that to the same end (settle.ts).
 */
import { type Logger, type RunStepsOptions, ignoreFailure } from "@torpor/std";
import { SandboxFolder, type SnapshotManifest } from "@torpor/storage";
import { Activity } from "../activity.ts";
import type { HostContext } from "../host-context.ts";
import { type SandboxState, enter } from "../lifecycle/state.ts";
import type { SandboxRecord } from "../records/sandbox-records.ts";
import type { SandboxRun } from "../steps/run.ts";
import type { WakeContext } from "../steps/wake.ts";
import { namesOf } from "./names.ts";

const storeRetryMs = 1_000;

/** See `SandboxEvents`; of the one sandbox that the turn is with. */
export interface TurnEvents {
  saved(): void;
  timed(): void;
  removed(): void;
}

export class SandboxWriter {
  readonly #turn: Turn;
  #queue: Promise<unknown> = Promise.resolve();

  /** @param record What it names is kept already. */
  constructor(host: HostContext, record: SandboxRecord, events: TurnEvents) {
    this.#turn = new Turn(host, record, events, (work) => this.take(work));
  }

  get record(): SandboxRecord {
    return this.#turn.record;
  }

  /** The running VM, or undefined. */
  get run(): SandboxRun | undefined {
    return this.#turn.run;
  }

  get folder(): SandboxFolder {
    return this.#turn.folder;
  }

  get activity(): Activity {
    return this.#turn.activity;
  }

  /** Does this when everything that was asked for before is done, well or not. */
  take<T>(work: (turn: Turn) => Promise<T>): Promise<T> {
    const result = this.#queue.then(() => work(this.#turn));
    this.#queue = result.catch((cause: unknown) => {
      this.#turn.log.warn("operation failed", { cause });
    });
    return result;
  }

  /** Settles when what was asked for so far is done, well or not. */
  async whenIdle(): Promise<void> {
    await this.#queue;
  }
}

/** Another turn, for news that comes when this one may be over. */
type Later = (work: (turn: Turn) => Promise<void>) => Promise<void>;

export class Turn {
  readonly host: HostContext;
  readonly events: TurnEvents;
  readonly later: Later;
  readonly log: Logger;
  readonly folder: SandboxFolder;
  readonly activity = new Activity();
  run: SandboxRun | undefined;
  /** What a spare has been prepared to, until somebody asks for it. */
  spare: WakeContext | undefined;
  /** What the run stands upon, as it was read or written: damage of the file costs a running guest nothing. */
  base: SnapshotManifest | undefined;
  isRemoved = false;
  #record: SandboxRecord;
  #isStored = true;
  #retry: NodeJS.Timeout | undefined;

  constructor(host: HostContext, record: SandboxRecord, events: TurnEvents, later: Later) {
    this.host = host;
    this.events = events;
    this.later = later;
    this.log = host.log.child({ sandboxId: record.id });
    this.folder = new SandboxFolder(host.stateFolder, record.id);
    this.#record = record;
  }

  get record(): SandboxRecord {
    return this.#record;
  }

  /** To another record: stored first, with whatever could not be stored before, then believed. */
  async save(change: Partial<SandboxRecord>): Promise<void> {
    const record = { ...this.#record, ...change };
    await this.host.records.save(record);
    this.#believe(record);
    this.#isStored = true;
  }

  async move(to: SandboxState): Promise<void> {
    await this.save({ state: enter(this.#record.state, to) });
  }

  /** To what the sandbox has come to already: believed first, then stored, now or later. Never fails. */
  async rest(to: SandboxState, change: Partial<SandboxRecord> = {}): Promise<void> {
    this.#believe({ ...this.#record, ...change, state: enter(this.#record.state, to) });
    this.#isStored = false;
    await this.storeRest();
  }

  /** Stores what the sandbox has come to, if that is still to be done. */
  async storeRest(): Promise<void> {
    if (this.#isStored || this.isRemoved) return;
    try {
      await this.save({});
    } catch (cause) {
      if (this.#retry === undefined) {
        this.log.error("what became of a sandbox cannot be recorded; trying again", { cause });
      }
      clearTimeout(this.#retry);
      this.#retry = setTimeout(() => {
        const again = this.later((turn) => turn.storeRest());
        void ignoreFailure("the failure is in the log of the queue", again);
      }, storeRetryMs).unref();
    }
  }

  /** From now on the record is another daemon's. */
  letGoOfRecord(): void {
    clearTimeout(this.#retry);
    this.#isStored = true;
  }

  /** Nothing is left of the sandbox: it needs nothing any more. */
  letGoOfLayers(): void {
    this.host.store.letGo(namesOf(this.#record));
  }

  #believe(record: SandboxRecord): void {
    const before = this.#record;
    this.#record = record;
    // ORDER: what both name is held all the time.
    this.host.store.hold(namesOf(record));
    this.host.store.letGo(namesOf(before));
  }

  stepOptions(verb: string): RunStepsOptions {
    return { verb, failpoint: this.host.failpoint };
  }
}
