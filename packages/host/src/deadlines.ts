/**
 * Ends sandboxes when their time is over, by the rules of lifetime.ts.
 *
 * Every decision is for one run and carries that run's epoch, so that a late pause or removal
 * cannot affect the run after it. It is checked again when its turn in the sandbox's queue comes,
 * because a user may have paused the sandbox or given it more time before that. If the pause fails,
 * the sandbox keeps running, `torpor info` and the log show why, and the daemon retries.
 */
import type { Logger } from "@torpor/std";
import { TorporError } from "@torpor/std";
import { type Due, nextDue } from "./lifecycle/lifetime.ts";
import type { Command } from "./sandbox/command.ts";
import type { Sandbox } from "./sandbox/sandbox.ts";

/**
 * LIMIT: wall clocks get set, and timers count at most 24 days, so check again at least this often.
 */
const lookMsMax = 60 * 60_000;
const retryMs = 30_000;

/** How a sandbox is paused or killed when its time is over. */
export interface DeadlineActions {
  pause(sandbox: Sandbox, command: Command): Promise<unknown>;
  kill(sandbox: Sandbox, command: Command): Promise<unknown>;
}

/** Why a sandbox still runs although its time is over, and since when. */
export interface MissedDeadline {
  readonly rule: Due["rule"];
  readonly atMs: number;
  readonly message: string;
}

/** The timers of all running sandboxes, until disposed. */
export class Deadlines implements Disposable {
  readonly #actions: DeadlineActions;
  readonly #log: Logger;
  readonly #timers = new Map<Sandbox, NodeJS.Timeout>();
  readonly #missed = new WeakMap<Sandbox, MissedDeadline>();
  #disposed = false;

  constructor(actions: DeadlineActions, log: Logger) {
    this.#actions = actions;
    this.#log = log;
  }

  /**
   * Applies what is due to this sandbox now, and sets its timer. Call it whenever its lifetime
   * changes.
   */
  watch(sandbox: Sandbox): void {
    this.#missed.delete(sandbox);
    this.#lookAt(sandbox, 0);
  }

  /** Why the last attempt to end the sandbox failed; undefined if there was none since `watch`. */
  missed(sandbox: Sandbox): MissedDeadline | undefined {
    return this.#missed.get(sandbox);
  }

  [Symbol.dispose](): void {
    this.#disposed = true;
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  #lookAt(sandbox: Sandbox, notBeforeMs: number): void {
    clearTimeout(this.#timers.get(sandbox));
    this.#timers.delete(sandbox);
    const due = dueOf(sandbox);
    if (due === undefined || this.#disposed) return;
    const inMs = Math.max(0, due.atMs - Date.now(), notBeforeMs - Date.now());
    const timer = setTimeout(() => void this.#onTime(sandbox), Math.min(inMs, lookMsMax));
    this.#timers.set(sandbox, timer.unref());
  }

  async #onTime(sandbox: Sandbox): Promise<void> {
    const due = dueOf(sandbox);
    // The sandbox was used in the meantime, or got more time.
    if (due === undefined || due.atMs > Date.now()) {
      this.#lookAt(sandbox, 0);
      return;
    }
    const { id, generation: epoch } = sandbox.record;
    const stillWanted = (): boolean => {
      const now = dueOf(sandbox);
      return now?.action === due.action && now.atMs <= Date.now();
    };
    this.#log.info("the time of a sandbox is over", { sandboxId: id, ...due });
    try {
      await this.#actions[due.action](sandbox, { epoch, stillWanted });
      this.#lookAt(sandbox, 0);
    } catch (cause) {
      if (TorporError.is(cause) && cause.code === "sandbox.stale") return;
      const { rawMessage } = TorporError.from(cause, "internal");
      this.#missed.set(sandbox, { rule: due.rule, atMs: Date.now(), message: rawMessage });
      this.#log.error("a sandbox outlives its time", { sandboxId: id, cause });
      this.#lookAt(sandbox, Date.now() + retryMs);
    }
  }
}

function dueOf({ run, record, activity }: Sandbox): Due | undefined {
  if (run === undefined) return undefined;
  return nextDue(record.lifetime, record.startedAtMs, activity.lastUsedAtMs);
}
