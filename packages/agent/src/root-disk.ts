/** The disk that the agent itself lies on: it answers, or nothing here does. */
import { type Stats, statSync } from "node:fs";

const { dev } = statSync("/");

export function isOnDisk(stats: Stats): boolean {
  return stats.dev === dev;
}
