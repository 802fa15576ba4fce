/**
 * Keeps the daemon running: starts it, and restarts it after a crash.
 *
 *     the daemon ended on request, or refused to start   exits with the daemon's own exit code
 *     the daemon crashed before it ever served           exits
 *     the daemon crashed later                           restarts it, after a wait
 *
 * The daemon reports over its channel when it serves, and when it begins to end: whatever kills it
 * after that, the supervisor does not restart it. The wait doubles with each crash, and is short again
 * after a minute of service. Signals are passed on. If the supervisor dies, the daemon continues, but
 * nothing restarts it.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "@torpor/std";
import { crashExitCode } from "./crash.ts";

/** Short, because VMs reach no network while no daemon runs. */
const firstWaitMs = 100;
const waitMsMax = 30_000;
/** A crash after this long is not part of a crash loop. */
const steadyMs = 60_000;

/** The daemon's reports to its supervisor, if it has one. */
export type DaemonNews = "serving" | "ending";

/** Reports to the supervisor; does nothing without one. */
export function tellSupervisor(news: DaemonNews): void {
  // A supervisor that is gone is ignored.
  if (process.connected) process.send?.(news, undefined, undefined, () => undefined);
}

/** The daemon to keep running, and when to stop. */
export interface Supervised {
  /** Program and arguments of the daemon. */
  readonly argv: readonly [string, ...string[]];
  readonly log: Logger;
  /** Aborts when the supervisor should end. */
  readonly signal: AbortSignal;
  /** Wall clock of the last request that no daemon should run; 0: there was none. */
  readonly downAtMs: () => number;
}

/**
 * Runs the daemon, restarting it after crashes.
 * @returns the exit code of the last daemon; 0 if the supervisor or the daemon was asked to end
 *   while it waited after a crash
 */
export async function supervise({ argv, log, signal, downAtMs }: Supervised): Promise<number> {
  let hasServed = false;
  let waitMs = firstWaitMs;
  for (;;) {
    const startedMonoMs = performance.now();
    const end = await runOnce(argv, signal);
    hasServed ||= end.served;
    const hasCrashed = end.signal !== null || end.code === crashExitCode;
    if (!hasCrashed || end.wasEnding || !hasServed || signal.aborted) return end.code ?? 1;
    if (performance.now() - startedMonoMs >= steadyMs) waitMs = firstWaitMs;
    log.warn("the daemon crashed and is started again", { ...end, waitMs });
    const crashedAtMs = Date.now();
    await sleep(waitMs);
    // No daemon answers a request to end during the wait, so `downAtMs` tells whether there was one.
    if (signal.aborted || downAtMs() >= crashedAtMs) return 0;
    waitMs = Math.min(2 * waitMs, waitMsMax);
  }
}

interface DaemonEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly served: boolean;
  readonly wasEnding: boolean;
}

async function runOnce(
  [program, ...args]: Supervised["argv"],
  signal: AbortSignal,
): Promise<DaemonEnd> {
  const child = spawn(program, args, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  const told = new Set<unknown>();
  child.on("message", (news) => told.add(news));
  const passOn = (): void => void child.kill("SIGTERM");
  signal.addEventListener("abort", passOn);
  if (signal.aborted) passOn();
  try {
    const [code, killedBy] = await exitOf(child);
    return {
      code,
      signal: killedBy,
      served: told.has("serving"),
      wasEnding: told.has("ending"),
    };
  } finally {
    signal.removeEventListener("abort", passOn);
  }
}

/** @throws any error that kept the program from starting */
async function exitOf(child: ChildProcess): Promise<[number | null, NodeJS.Signals | null]> {
  return (await once(child, "exit")) as [number | null, NodeJS.Signals | null];
}
