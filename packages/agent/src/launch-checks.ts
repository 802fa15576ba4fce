/**
 * The checks of files before a command starts, in a lane of their own: commands can start while
 * file operations hang. If several requests ask for the same check at once, they share one thread,
 * so that a client that repeats itself takes no more.
 *
 * While no thread of the lane is free, perhaps because all wait for a dead mount, the last result
 * for a path on the agent's own disk counts as still true. If it is not, the start fails all the
 * same, with another message.
 */
import type { Stats } from "node:fs";
import { Code, ConnectError } from "@connectrpc/connect";
import { FileWork } from "./file-work.ts";
import { isOnDisk } from "./root-disk.ts";
import type { QuietTimers } from "./quiet-timers.ts";
import { startLane } from "./thread-lane.ts";

/** How long the file system may take to answer whether a command and its folder are there. */
const budgetMs = 10_000;
/** LIMIT: folders and commands that are remembered; programs use few. */
const rememberedMax = 256;

const work = new FileWork(undefined, startLane);
/** SNAPSHOT: checks that the kernel has not answered; they continue after a restore. */
const running = new Map<string, Promise<unknown>>();
/** SNAPSHOT: results for the disk, which is in the same snapshot. */
const remembered = new Map<string, Stats>();

/**
 * Like `stat` of Node, with the sharing and remembering of this module.
 * @throws system error; ConnectError aborted when every thread of the lane hangs
 */
export async function stat(path: string): Promise<Stats> {
  const seen = remembered.get(path);
  if (seen !== undefined && startLane.isFull) return seen;
  const stats = await look(`stat ${path}`, async () => await work.stat(path));
  if (isOnDisk(stats)) remember(path, stats);
  return stats;
}

/**
 * Like `access` of Node; a path whose `stat` is remembered passes while the lane is full.
 * @throws as `stat`
 */
export async function access(path: string, mode: number): Promise<void> {
  if (remembered.has(path) && startLane.isFull) return;
  await look(`access ${mode} ${path}`, async () => await work.access(path, mode));
}

/**
 * Awaits checks for a limited time.
 * @throws ConnectError aborted when it is over; what the checks throw
 */
export async function within<T>(looks: Promise<T>, timers: QuietTimers): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const text = `cannot start: the file system did not answer for ${budgetMs / 1000} s`;
  const timer = timers.after(budgetMs, () => reject(new ConnectError(text, Code.Aborted)));
  try {
    return await Promise.race([looks, promise]);
  } finally {
    timer.cancel();
  }
}

async function look<T>(key: string, begin: () => Promise<T>): Promise<T> {
  // Each key names one operation, and therefore one type.
  const before = running.get(key) as Promise<T> | undefined;
  if (before !== undefined) return await before;
  const answer = begin();
  running.set(key, answer);
  try {
    return await answer;
  } finally {
    running.delete(key);
  }
}

function remember(path: string, stats: Stats): void {
  remembered.delete(path);
  remembered.set(path, stats);
  const [oldest] = remembered.keys();
  if (remembered.size > rememberedMax && oldest !== undefined) remembered.delete(oldest);
}
