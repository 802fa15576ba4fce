/**
 * Keeps the daemon running: a program that starts it, and starts it again when it crashed.
 *
 *     it ended as it was told to, or refused to start    over, with the daemon's own exit code
 *     it crashed before it ever served                   over
 *     it crashed later                                   again, after a wait
 *
 * The daemon says over its channel when it serves, and when it begins to end: whatever kills it after
 * that, it is not started again. The wait doubles with each crash and is short again after a minute of
 * service. Signals are passed on. Without its supervisor a daemon goes on; nobody starts it again then.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "@torpor/std";
import { crashExitCode } from "./crash.ts";

/** VMs reach no network while no daemon runs. */
const firstWaitMs = 100;
const waitMsMax = 30_000;
/** After so long a crash is no part of a loop. */
const steadyMs = 60_000;

/** What the daemon tells its supervisor, if it has one. */
export type DaemonNews = "serving" | "ending";

export function tellSupervisor(news: DaemonNews): void {
  // One that is gone is not missed.
  if (process.connected) process.send?.(news, undefined, undefined, () => undefined);
}

export interface Supervised {
  /** Program and arguments of the daemon. */
  readonly argv: readonly [string, ...string[]];
  readonly log: Logger;
  /** Aborts when the supervisor is told to end. */
  readonly signal: AbortSignal;
  /** When somebody last said that no daemon is wanted, on the wall clock; 0: never. */
  readonly downAtMs: () => number;
}

/** Returns the exit code of the last daemon. */
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
    // No daemon answers meanwhile that could be asked to end.
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

/** @throws whatever kept the program from being started */
async function exitOf(child: ChildProcess): Promise<[number | null, NodeJS.Signals | null]> {
  return (await once(child, "exit")) as [number | null, NodeJS.Signals | null];
}
