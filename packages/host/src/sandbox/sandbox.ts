/**
 * One sandbox, as the rest of the daemon sees it: the requests it accepts, and the state it shows.
 *
 * Every request waits for its turn with the sandbox's single writer (writer.ts), is admitted or
 * refused by the state at that moment, and is handed to the file of its verb. That file says what
 * the record holds before, during and after the request. Where a verb needs several steps, with
 * budgets and undo, it runs a list from `steps/`: pause, checkpoint, remove and shorten each have
 * their own; create and resume both use steps/wake.ts.
 *
 * Operations belong to the daemon: if the caller disconnects the operation continues, and a caller
 * that repeats a request joins the queue and finds the sandbox already as requested. A request may
 * name the epoch it was made for, which is the generation of the run; a request for an earlier run
 * is refused.
 */
import { TorporError } from "@torpor/std";
import type { SandboxFolder } from "@torpor/storage";
import type { Activity } from "../activity.ts";
import { newSnapshotId } from "../entropy.ts";
import type { HostContext } from "../host-context.ts";
import { type Admission, type Verb, decide } from "../lifecycle/decide.ts";
import type { NetworkRequest } from "../network-request.ts";
import type { SandboxRecord } from "../records/sandbox-records.ts";
import type { SandboxRun } from "../steps/run.ts";
import { type Checkpoint, checkpoint, keepCheckpoint } from "./checkpoint.ts";
import { type Command, type Outcome, unchanged } from "./command.ts";
import { type SandboxOwner, create, prepareSpare } from "./create.ts";
import { type EqualOf, takeFold } from "./fold.ts";
import { pause } from "./pause.ts";
import { remove } from "./remove.ts";
import { type ResumeCommand, resume, stayAwake } from "./resume.ts";
import { letGo } from "./run.ts";
import { changeNetwork, changeTimeoutMs, extendTimeoutMs } from "./settings.ts";
import { settle } from "./settle.ts";
import { shortenDisk } from "./shorten.ts";
import { endStall } from "./stall.ts";
import { namesOf } from "./names.ts";
import { SandboxWriter, type Turn } from "./writer.ts";

/** Notifies the rest of the daemon of changes to a sandbox that concern it. */
export interface SandboxEvents {
  /** The layers that the sandbox is built on have changed: some may be worth compacting. */
  saved(sandbox: Sandbox): void;
  /** A run began or ended, or its lifetime changed. */
  timed(sandbox: Sandbox): void;
  /** Nothing is left of the sandbox. */
  removed(sandbox: Sandbox): void;
}

/**
 * One sandbox. Tens of thousands may sleep, so until its first use it is little more than its
 * record.
 */
export class Sandbox {
  readonly #host: HostContext;
  readonly #firstRecord: SandboxRecord;
  readonly #events: SandboxEvents;
  #madeWriter: SandboxWriter | undefined;

  /** From here on the store keeps what the record names. */
  constructor(host: HostContext, record: SandboxRecord, events: SandboxEvents) {
    this.#host = host;
    this.#firstRecord = record;
    this.#events = events;
    host.store.hold(namesOf(record));
  }

  get #writer(): SandboxWriter {
    return (this.#madeWriter ??= new SandboxWriter(this.#host, this.#firstRecord, {
      saved: () => this.#events.saved(this),
      timed: () => this.#events.timed(this),
      removed: () => this.#events.removed(this),
    }));
  }

  /** The record as it is now; it is replaced whole by each change. */
  get record(): SandboxRecord {
    return this.#madeWriter?.record ?? this.#firstRecord;
  }

  /** The running VM, or undefined. */
  get run(): SandboxRun | undefined {
    return this.#madeWriter?.run;
  }

  /** The sandbox's folder on disk. */
  get folder(): SandboxFolder {
    return this.#writer.folder;
  }

  /** When a client last used the sandbox. */
  get activity(): Activity {
    return this.#writer.activity;
  }

  /**
   * Prepares a spare, as far as a sandbox can get before its user is known; `create` does the rest.
   */
  prepareSpare(): Promise<Outcome> {
    return this.#writer.take(prepareSpare);
  }

  /**
   * Starts a new sandbox, from its template or from the snapshot in its record. If that fails,
   * nothing is left of the sandbox.
   * @param verifyDisk False when the same layers have just been verified or written.
   */
  create(owner: SandboxOwner, verifyDisk = true): Promise<Outcome> {
    return this.#writer.take((turn) => create(turn, owner, verifyDisk));
  }

  /**
   * Saves the sandbox to disk and ends its VM; a paused sandbox stays as it is.
   * @throws sandbox.notFound, sandbox.stale, sandbox.wrongState, and whatever the steps throw
   */
  pause(command: Command = {}): Promise<Outcome> {
    return this.#writer.take(async (turn) => {
      if (command.stillWanted?.() === false) return unchanged;
      if (!admit(turn, "pause", command)) return unchanged;
      return await pause(turn);
    });
  }

  /**
   * Wakes the sandbox from a snapshot; a running one continues, and may get more time.
   * @throws sandbox.notFound, sandbox.stale, sandbox.wrongState, and whatever the steps throw
   */
  resume(command: ResumeCommand = {}): Promise<Outcome> {
    return this.#writer.take(async (turn) =>
      admit(turn, "resume", command) ? await resume(turn, command) : await stayAwake(turn, command),
    );
  }

  /**
   * Takes an instant of this sandbox: a new snapshot of a running sandbox, which continues, or the
   * newest snapshot of a paused one.
   * @param snapshotId Id of a new snapshot.
   * @throws sandbox.notFound, sandbox.stale, sandbox.wrongState, and whatever the steps throw
   */
  checkpoint(command: Command = {}, snapshotId = newSnapshotId()): Promise<Checkpoint> {
    return this.#writer.take(async (turn) => {
      const isNew = admit(turn, "checkpoint", command);
      const timings = isNew ? await checkpoint(turn, snapshotId) : [];
      return keepCheckpoint(turn, isNew, timings);
    });
  }

  /**
   * Removes the sandbox; does nothing if it was removed.
   * @throws sandbox.stale, and whatever the steps throw; it can then be repeated
   */
  remove(command: Command = {}): Promise<Outcome> {
    return this.#writer.take(async (turn) => {
      if (turn.isRemoved || command.stillWanted?.() === false) return unchanged;
      admit(turn, "remove", command);
      return { changed: true, timings: await remove(turn) };
    });
  }

  /**
   * Replaces the network request from now on; a paused sandbox wakes with it.
   * @throws argument.invalid, network.unenforceable, sandbox.notFound, sandbox.stale; nothing has
   *   changed then
   */
  setNetwork(asked: Partial<NetworkRequest> | null, command: Command = {}): Promise<void> {
    return this.#writer.take(async (turn) => {
      refuseStale(turn, command);
      await changeNetwork(turn, asked);
    });
  }

  /** Sets the timeout from now on; null: none. @throws sandbox.notFound, sandbox.stale */
  setTimeoutMs(timeoutMs: number | null, command: Command = {}): Promise<void> {
    return this.#writer.take(async (turn) => {
      refuseStale(turn, command);
      await changeTimeoutMs(turn, timeoutMs);
    });
  }

  /**
   * Gives a running sandbox at least this long from now.
   * @throws sandbox.notFound, sandbox.stale
   */
  extendTimeoutMs(timeoutMs: number, command: Command = {}): Promise<void> {
    return this.#writer.take(async (turn) => {
      refuseStale(turn, command);
      await extendTimeoutMs(turn, timeoutMs);
    });
  }

  /** Moves the sandbox onto the equal of its newest snapshot, if `equalOf` returns one. */
  takeFold(equalOf: EqualOf): Promise<void> {
    return this.#writer.take((turn) => takeFold(turn, equalOf));
  }

  /** Rebases the disk of a running VM onto the compacted layers that its record names by now. */
  shortenDisk(): Promise<void> {
    return this.#writer.take(shortenDisk);
  }

  /** Lets a VM continue that its VMM holds for want of disk space, once there may be room again. */
  endStall(): Promise<void> {
    return this.#writer.take(endStall);
  }

  /** After the daemon has started: adopts a VM that is still running, or settles what is left. */
  settle(): Promise<void> {
    return this.#writer.take(settle);
  }

  /** Settles when every request so far is done, whether it succeeded or failed. */
  async whenIdle(): Promise<void> {
    await this.#madeWriter?.whenIdle();
  }

  /** Lets go of the VM without ending it; another daemon will adopt it. */
  async release(): Promise<void> {
    await this.#madeWriter?.take(letGo);
  }
}

/**
 * @returns false for a repeat
 * @throws sandbox.wrongState when the state does not allow the request; sandbox.stale,
 *   sandbox.notFound
 */
function admit(turn: Turn, verb: Verb, { epoch }: Command): boolean {
  const { id, state, snapshotId, generation } = turn.record;
  if (turn.isRemoved) throw new TorporError("sandbox.notFound", `sandbox ${id} was removed`);
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

/** Checks the epoch of requests that every state allows; every state allows "remove". */
function refuseStale(turn: Turn, command: Command): void {
  admit(turn, "remove", command);
}
