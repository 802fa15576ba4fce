/**
 * Hooks: programs of the guest's owner that the agent runs around a snapshot. Those in
 * `pre-snapshot.d` run before it, to close what must not be in it; those in `post-restore.d` run
 * after it, to open that again. The latter also run after a prepare that ended without a restore,
 * with the reason `continue`.
 *
 * They run one after the other in the order of their names, as root, in the cgroup of user
 * processes, with details of the moment in TORPOR_… variables. Each hook has a budget, and all
 * hooks of one moment share one; a hook that exceeds it is killed with its process group. Output
 * and exit status go to the log. Nothing a hook does stops a pause or a wake.
 *
 * INVARIANT: the hooks of one moment end before those of the next begin.
 */
import { opendirSync, statSync } from "node:fs";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import type { HookCounts, PrepareReason, ProcessEvent, WakeReason } from "@torpor/protocol";
import { Deadline, type Logger, systemCode } from "@torpor/std";
import type { User } from "./accounts.ts";
import type { AgentConfig, hookMoments } from "./config.ts";
import type { Identity } from "./identity.ts";
import { type LaunchContext, launchUnchecked } from "./launch.ts";
import { LogBudget } from "./log-budget.ts";
import { ManagedProcess } from "./process.ts";
import type { UserEnvironment } from "./user-environment.ts";

/**
 * LIMIT: the end of a hook's output that is logged; more would only push older lines out of the
 * log.
 */
const outputBytesMax = 8 << 10;
/** LIMIT: more can hardly run within the budget. */
const hooksMax = 64;
const folderEntriesMax = 1024;
/**
 * The names that run-parts(8) runs, so that copies left by editors and package managers are
 * skipped.
 */
const hookName = /^[A-Za-z0-9_.-]+$/;

const root: User = {
  name: "root",
  uid: 0,
  gid: 0,
  home: "/root",
  shell: "/bin/bash",
  otherGroups: [],
};

/** When hooks run; the name of their folder without `.d`. */
export type HookMoment = (typeof hookMoments)[number];

/** Why hooks run now. They receive these fields as TORPOR_… variables. */
export interface HookOccasion {
  readonly moment: HookMoment;
  readonly reason: PrepareReason | WakeReason | "continue";
  /** How long the guest was suspended on disk; 0 if it was not. */
  readonly suspendedMs: number;
}

/** The parts of the agent that running a hook takes. */
export interface HooksContext extends LaunchContext {
  readonly config: AgentConfig;
  readonly identity: Identity;
  readonly environment: UserEnvironment;
  readonly log: Logger;
}

/** Runs the hooks of one agent, the moments one after the other. */
export class Hooks {
  readonly #context: HooksContext;
  /**
   * SNAPSHOT: settled in every snapshot, because a prepare runs hooks before it quiesces the guest.
   */
  #last: Promise<unknown> = Promise.resolve();

  constructor(context: HooksContext) {
    this.#context = context;
  }

  /** Runs the hooks of one moment, after those of the moment before have ended. Never rejects. */
  async run(occasion: HookOccasion): Promise<HookCounts> {
    const counts = this.#last.then(async () => await this.#runAll(occasion));
    this.#last = counts;
    return await counts;
  }

  async #runAll(occasion: HookOccasion): Promise<HookCounts> {
    const { hookBudgetMs, hooksBudgetMs } = this.#context.config.limits;
    const deadline = Deadline.after(hooksBudgetMs, `hooks ${occasion.moment}`);
    const counts = { run: 0, failed: 0 };
    for (const path of this.#list(occasion.moment)) {
      if (deadline.expired) {
        this.#context.log.error("hooks are left out, the time for all is over", { from: path });
        break;
      }
      counts.run += 1;
      const succeeded = await this.#runOne(path, occasion, deadline.sub(hookBudgetMs, path));
      if (!succeeded) counts.failed += 1;
    }
    return counts;
  }

  /** Reads synchronously: most guests have no hooks, and every wake asks. */
  #list(moment: HookMoment): readonly string[] {
    const folder = join(this.#context.config.hooksFolder, `${moment}.d`);
    try {
      return listHooks(folder);
    } catch (cause) {
      if (systemCode(cause) !== "ENOENT") this.#context.log.error("no hooks", { folder, cause });
      return [];
    }
  }

  async #runOne(path: string, occasion: HookOccasion, deadline: Deadline): Promise<boolean> {
    const { log } = this.#context;
    const startedMonoMs = performance.now();
    try {
      const { exitCode, status, output } = await this.#launch(path, occasion, deadline);
      const succeeded = exitCode === 0;
      const fields = {
        hook: path,
        reason: occasion.reason,
        status,
        tookMs: Math.round(performance.now() - startedMonoMs),
        ...(output === "" ? {} : { output }),
      };
      if (succeeded) log.info("a hook ran", fields);
      else log.error("a hook failed", fields);
      return succeeded;
    } catch (cause) {
      log.error("a hook cannot be run", { hook: path, reason: occasion.reason, cause });
      return false;
    }
  }

  async #launch(path: string, occasion: HookOccasion, deadline: Deadline): Promise<HookEnd> {
    const { config, identity, environment, timers } = this.#context;
    // No client reconnects to a hook for its output: the end of it is in the log.
    const limits = { ...config.limits, outputKeptBytes: 0 };
    const processContext = { timers, limits, logBudget: new LogBudget(0) };
    const request = {
      user: root,
      command: path,
      args: [],
      cwd: "/",
      env: {
        ...environment.of(root),
        TORPOR_HOOK: occasion.moment,
        TORPOR_REASON: occasion.reason,
        TORPOR_SANDBOX_ID: identity.current.sandboxId,
        TORPOR_GENERATION: String(identity.current.generation),
        TORPOR_SUSPENDED_MS: String(occasion.suspendedMs),
      },
      stdin: false,
      terminal: undefined,
    };
    const launched = await launchUnchecked(request, this.#context);
    return await watch(new ManagedProcess(launched, processContext), deadline);
  }
}

interface HookEnd {
  readonly exitCode: number;
  readonly status: string;
  readonly output: string;
}

/** Collects the process's output until it ends, or kills it at the deadline. */
async function watch(process: ManagedProcess, deadline: Deadline): Promise<HookEnd> {
  const subscription = process.subscribe();
  let output: Uint8Array = Buffer.alloc(0);
  try {
    for await (const { event } of subscription.read(deadline.signal)) {
      if (event.case === "data") output = withTail(output, event);
      if (event.case === "end") {
        const { exitCode, status } = event.value;
        return { exitCode, status, output: textOf(output) };
      }
    }
    process.killAll();
    return { exitCode: -1, status: "killed when its time was over", output: textOf(output) };
  } finally {
    process.unsubscribe(subscription);
  }
}

function withTail(output: Uint8Array, data: ProcessEvent["event"] & { case: "data" }): Uint8Array {
  const chunk = data.value.output.value ?? new Uint8Array();
  return Buffer.concat([output, chunk]).subarray(-outputBytesMax);
}

function textOf(output: Uint8Array): string {
  return Buffer.from(output).toString("utf8");
}

/** @throws system error ENOENT */
function listHooks(folder: string): readonly string[] {
  using entries = opendirSync(folder);
  const names: string[] = [];
  for (let read = 0; read < folderEntriesMax && names.length < hooksMax; read += 1) {
    const entry = entries.readSync();
    if (entry === null) break;
    if (hookName.test(entry.name) && isExecutable(join(folder, entry.name))) names.push(entry.name);
  }
  return names.sort().map((name) => join(folder, name));
}

function isExecutable(path: string): boolean {
  const stats = statSync(path, { throwIfNoEntry: false });
  return stats !== undefined && stats.isFile() && (stats.mode & 0o111) !== 0;
}
