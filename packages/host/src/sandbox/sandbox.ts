/**
 * One sandbox, as the rest of the daemon knows it: what can be asked of it, and what can be seen.
 *
 * Every request waits for its turn with the sandbox's single writer (writer.ts), is admitted or refused
 * by the state that it finds then, and is handed to the file of its verb. Such a file says what the record
 * holds before, during and after it; how it is done is the list of steps of the same name in `steps/`.
 *
 * Operations belong to the daemon: a caller that goes away changes nothing, and a caller that
 * repeats a request joins the queue and finds the sandbox already as asked. A request may name the
 * epoch it was made for, which is the generation of the run; one that comes too late is refused.
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

/** What happens to sandboxes that concerns others. */
export interface SandboxEvents {
  /** What the sandbox stands upon has changed: something may be folded. */
  saved(sandbox: Sandbox): void;
  /** A run begins, its lifetime is set anew, or it is over. */
  timed(sandbox: Sandbox): void;
  /** Nothing is left of it. */
  removed(sandbox: Sandbox): void;
}

/** Most sandboxes sleep, some by the ten thousand: until it is first used one is hardly more than its record. */
export class Sandbox {
  readonly #host: HostContext;
  readonly #firstRecord: SandboxRecord;
  readonly #events: SandboxEvents;
  #madeWriter: SandboxWriter | undefined;

  /** From here on what the record names is kept. */
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

  get record(): SandboxRecord {
    return this.#madeWriter?.record ?? this.#firstRecord;
  }

  /** The running VM, or undefined. */
  get run(): SandboxRun | undefined {
    return this.#madeWriter?.run;
  }

  get folder(): SandboxFolder {
    return this.#writer.folder;
  }

  get activity(): Activity {
    return this.#writer.activity;
  }

  /** Goes as far as a sandbox can without knowing whose it will be; `create` does the rest. */
  prepareSpare(): Promise<Outcome> {
    return this.#writer.take(prepareSpare);
  }

  /**
   * Brings a new sandbox to life, from its template or the snapshot it was made with. On failure
   * nothing of it is left.
   * @param verifyDisk False when the same layers have just been verified or written.
   */
  create(owner: SandboxOwner, verifyDisk = true): Promise<Outcome> {
    return this.#writer.take((turn) => create(turn, owner, verifyDisk));
  }

  pause(command: Command = {}): Promise<Outcome> {
    return this.#writer.take(async (turn) => {
      if (command.stillWanted?.() === false) return unchanged;
      if (!admit(turn, "pause", command)) return unchanged;
      return await pause(turn);
    });
  }

  resume(command: ResumeCommand = {}): Promise<Outcome> {
    return this.#writer.take(async (turn) =>
      admit(turn, "resume", command) ? await resume(turn, command) : await stayAwake(turn, command),
    );
  }

  /**
   * An instant of this sandbox, which goes on: a new snapshot of a running one, the last of a paused.
   * @param snapshotId What a new one is called.
   */
  checkpoint(command: Command = {}, snapshotId = newSnapshotId()): Promise<Checkpoint> {
    return this.#writer.take(async (turn) => {
      const isNew = admit(turn, "checkpoint", command);
      const timings = isNew ? await checkpoint(turn, snapshotId) : [];
      return keepCheckpoint(turn, isNew, timings);
    });
  }

  remove(command: Command = {}): Promise<Outcome> {
    return this.#writer.take(async (turn) => {
      if (turn.isRemoved || command.stillWanted?.() === false) return unchanged;
      admit(turn, "remove", command);
      return { changed: true, timings: await remove(turn) };
    });
  }

  /**
   * From now on, in place of what was asked for before; a sandbox that sleeps wakes with it.
   * @throws argument.invalid, network.unenforceable, sandbox.notFound; then nothing has changed
   */
  setNetwork(asked: Partial<NetworkRequest> | null, command: Command = {}): Promise<void> {
    return this.#writer.take(async (turn) => {
      refuseStale(turn, command);
      await changeNetwork(turn, asked);
    });
  }

  /** From now on; null: never. @throws sandbox.notFound for one that was removed */
  setTimeoutMs(timeoutMs: number | null, command: Command = {}): Promise<void> {
    return this.#writer.take(async (turn) => {
      refuseStale(turn, command);
      await changeTimeoutMs(turn, timeoutMs);
    });
  }

  /** Gives it at least this long from now, if it runs. @throws sandbox.notFound */
  extendTimeoutMs(timeoutMs: number, command: Command = {}): Promise<void> {
    return this.#writer.take(async (turn) => {
      refuseStale(turn, command);
      await extendTimeoutMs(turn, timeoutMs);
    });
  }

  /** Moves it over to the equal, in fewer layers, of what it stands upon, if it is given one. */
  takeFold(equalOf: EqualOf): Promise<void> {
    return this.#writer.take((turn) => takeFold(turn, equalOf));
  }

  /** Puts the disk of its VM upon the folded layers that its record names by now, if it runs. */
  shortenDisk(): Promise<void> {
    return this.#writer.take(shortenDisk);
  }

  /** Lets a VM go on that its VMM holds for want of disk space, once there may be room again. */
  endStall(): Promise<void> {
    return this.#writer.take(endStall);
  }

  /** After a start of the daemon: takes over a VM that is still running, or settles what is left. */
  settle(): Promise<void> {
    return this.#writer.take(settle);
  }

  /** Settles when what was asked for so far is done, well or not. */
  async whenIdle(): Promise<void> {
    await this.#madeWriter?.whenIdle();
  }

  /** Lets go of the VM without ending it; another daemon will adopt it. */
  async release(): Promise<void> {
    await this.#madeWriter?.take(letGo);
  }
}

/** @throws sandbox.wrongState when the state does not allow it. @returns false for a repeat. */
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

/** For requests that every state allows. */
function refuseStale(turn: Turn, command: Command): void {
  admit(turn, "remove", command);
}
