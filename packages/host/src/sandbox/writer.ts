/**
 * The single writer of a sandbox.
 *
 * INVARIANT: the record of a sandbox and its run change only within a turn. Turns run one at a
 * time, in the order they were requested, so that no two operations ever work on the sandbox at
 * once. `SandboxWriter.take` is the only way to a `Turn`: a function that receives one has the
 * sandbox to itself until its promise settles, and a function without one can only look.
 *
 * The daemon stores what it is about to do before it does it, and the record in memory is the one
 * in the database. A result is a fact even if the database cannot store it, on a full disk for
 * example: the record in memory changes at once, and is stored as soon as possible, at the latest
 * by the save with which the next operation begins. Until then the database holds what was begun,
 * and the next daemon settles that to the same end (settle.ts).
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

/** `SandboxEvents` of the one sandbox that the turn belongs to. */
export interface TurnEvents {
  saved(): void;
  timed(): void;
  removed(): void;
}

/** Queues the work on one sandbox, and shows its state to readers. */
export class SandboxWriter {
  readonly #turn: Turn;
  #queue: Promise<unknown> = Promise.resolve();

  /** @param record The store already keeps what it names. */
  constructor(host: HostContext, record: SandboxRecord, events: TurnEvents) {
    this.#turn = new Turn(host, record, events, (work) => this.take(work));
  }

  /** The record as it is now; it is replaced whole by each change. */
  get record(): SandboxRecord {
    return this.#turn.record;
  }

  /** The running VM, or undefined. */
  get run(): SandboxRun | undefined {
    return this.#turn.run;
  }

  /** The sandbox's folder on disk. */
  get folder(): SandboxFolder {
    return this.#turn.folder;
  }

  /** When a client last used the sandbox. */
  get activity(): Activity {
    return this.#turn.activity;
  }

  /** Runs `work` after everything that was requested before, whether that succeeded or failed. */
  take<T>(work: (turn: Turn) => Promise<T>): Promise<T> {
    const result = this.#queue.then(() => work(this.#turn));
    this.#queue = result.catch((cause: unknown) => {
      this.#turn.log.warn("operation failed", { cause });
    });
    return result;
  }

  /** Settles when every request so far is done, whether it succeeded or failed. */
  async whenIdle(): Promise<void> {
    await this.#queue;
  }
}

/** Queues another turn, for events that may arrive after this one is over. */
type Later = (work: (turn: Turn) => Promise<void>) => Promise<void>;

/**
 * Exclusive access to a sandbox: only the function that holds a turn changes the sandbox's record
 * or run.
 */
export class Turn {
  readonly host: HostContext;
  readonly events: TurnEvents;
  readonly later: Later;
  readonly log: Logger;
  readonly folder: SandboxFolder;
  readonly activity = new Activity();
  run: SandboxRun | undefined;
  /** The prepared wake of a spare, until a caller claims it. */
  spare: WakeContext | undefined;
  /**
   * The newest snapshot as it was read or written: later damage of its file does not affect a
   * running guest.
   */
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

  /** The record as it is now; `save`, `move` and `rest` replace it. */
  get record(): SandboxRecord {
    return this.#record;
  }

  /**
   * Changes the record: stores it, with anything that could not be stored before, then changes it
   * in memory.
   * @throws storage.failed; the record in memory is unchanged then
   */
  async save(change: Partial<SandboxRecord>): Promise<void> {
    const record = { ...this.#record, ...change };
    await this.host.records.save(record);
    this.#believe(record);
    this.#isStored = true;
  }

  /**
   * Stores a legal move to another state, before the work that it announces.
   * @throws storage.failed
   */
  async move(to: SandboxState): Promise<void> {
    await this.save({ state: enter(this.#record.state, to) });
  }

  /**
   * Records what has already happened: in memory first, then in the database, now or later. Never
   * fails.
   */
  async rest(to: SandboxState, change: Partial<SandboxRecord> = {}): Promise<void> {
    this.#believe({ ...this.#record, ...change, state: enter(this.#record.state, to) });
    this.#isStored = false;
    await this.storeRest();
  }

  /** Stores the record if it differs from the database; retries later if that fails. */
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

  /** From now on the record belongs to another daemon. */
  letGoOfRecord(): void {
    clearTimeout(this.#retry);
    this.#isStored = true;
  }

  /** The sandbox is gone: the store need not keep anything for it. */
  letGoOfLayers(): void {
    this.host.store.letGo(namesOf(this.#record));
  }

  #believe(record: SandboxRecord): void {
    const before = this.#record;
    this.#record = record;
    // ORDER: hold first, so that what both records name is kept throughout.
    this.host.store.hold(namesOf(record));
    this.host.store.letGo(namesOf(before));
  }

  /** Options for running the steps of a verb. */
  stepOptions(verb: string): RunStepsOptions {
    return { verb, failpoint: this.host.failpoint };
  }
}
