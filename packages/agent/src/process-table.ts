/**
 * The processes that were started through the API, found by pid or by tag.
 *
 * A process that has ended stays for a while, so that a client that reconnects late still learns
 * how it ended. INVARIANT: at most one entry for each pid; a new process evicts an ended one that
 * had the same pid.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { ProcessConfig, ProcessSelector } from "@torpor/protocol";
import { ignoreFailure } from "@torpor/std";
import type { ManagedProcess } from "./process.ts";
import type { QuietTimer, QuietTimers } from "./quiet-timers.ts";

/**
 * LIMIT: far more than a workload starts through this API, far fewer than the descriptors allow.
 */
const runningMax = 1024;
/** LIMIT: ended processes that are remembered; the oldest are discarded first. */
const endedMax = 1024;

/** One process, and what its client called it. */
export interface ProcessEntry {
  readonly process: ManagedProcess;
  /** The client's request, for List. */
  readonly config: ProcessConfig | undefined;
  readonly tag: string | undefined;
}

/** Finds processes, running or ended recently. */
export class ProcessTable {
  readonly #timers: QuietTimers;
  readonly #exitKeptMs: number;
  readonly #isSuccessor: boolean;
  /** SNAPSHOT: the processes are in the same snapshot and are there again after a restore. */
  readonly #running = new Map<number, ProcessEntry>();
  readonly #ended = new Map<number, ProcessEntry & { readonly expiry: QuietTimer }>();

  /** @param isSuccessor Whether another agent may have started processes before. */
  constructor(timers: QuietTimers, exitKeptMs: number, isSuccessor: boolean) {
    this.#timers = timers;
    this.#exitKeptMs = exitKeptMs;
    this.#isSuccessor = isSuccessor;
  }

  /** @throws ConnectError aborted when no more processes may be started. */
  checkRoom(): void {
    if (this.#running.size >= runningMax) {
      throw new ConnectError(`more than ${runningMax} processes`, Code.Aborted);
    }
  }

  /** Adds a process that has just started; it leaves by itself after its end. */
  add(entry: ProcessEntry): void {
    const { pid } = entry.process;
    this.#forget(pid);
    this.#running.set(pid, entry);
    const retire = async (): Promise<void> => {
      await entry.process.ended;
      this.#retire(entry);
    };
    void ignoreFailure("a process always ends, and its end cannot fail", retire());
  }

  /** The processes that have not ended, oldest first. */
  running(): ProcessEntry[] {
    return [...this.#running.values()];
  }

  /** @throws ConnectError invalid_argument; not_found, also for a process that has ended. */
  findRunning(selector: ProcessSelector | undefined): ProcessEntry {
    return this.#find(selector, false);
  }

  /**
   * @throws ConnectError invalid_argument; not_found when it ended longer ago than its status is
   *   kept.
   */
  findRecent(selector: ProcessSelector | undefined): ProcessEntry {
    return this.#find(selector, true);
  }

  #find(selector: ProcessSelector | undefined, orEnded: boolean): ProcessEntry {
    const wanted = selector?.selector;
    if (wanted?.case === undefined) {
      throw new ConnectError("a process must be selected by pid or tag", Code.InvalidArgument);
    }
    const matches = ({ process, tag }: ProcessEntry): boolean =>
      wanted.case === "pid" ? process.pid === wanted.value : tag === wanted.value;
    // A tag may be used again: the newest process with the tag is meant.
    const found =
      this.running().findLast(matches) ??
      (orEnded ? [...this.#ended.values()].findLast(matches) : undefined);
    if (found === undefined) {
      const unknown = this.#isSuccessor
        ? "; the agent was started anew, and has not seen how earlier processes ended"
        : "";
      throw new ConnectError(
        `no process with ${wanted.case} ${wanted.value}${unknown}`,
        Code.NotFound,
      );
    }
    return found;
  }

  #retire(entry: ProcessEntry): void {
    const { pid } = entry.process;
    if (this.#running.get(pid) !== entry) return;
    this.#running.delete(pid);
    const expiry = this.#timers.after(this.#exitKeptMs, () => this.#forget(pid));
    this.#ended.set(pid, { ...entry, expiry });
    const oldest = this.#ended.keys().next();
    if (this.#ended.size > endedMax && oldest.done !== true) this.#forget(oldest.value);
  }

  #forget(pid: number): void {
    const ended = this.#ended.get(pid);
    ended?.expiry.cancel();
    ended?.process.forget();
    this.#ended.delete(pid);
    this.#running.delete(pid);
  }
}
