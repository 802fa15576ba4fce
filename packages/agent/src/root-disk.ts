/**
 * The disk that holds the agent itself. Operations on it always end: if it hangs, the agent hangs
 * too.
 */
import { type Stats, statSync } from "node:fs";

const { dev } = statSync("/");

/** Whether a file is on that disk, by its `stat`. */
export function isOnDisk(stats: Stats): boolean {
  return stats.dev === dev;
}
