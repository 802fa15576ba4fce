/**
 * How much processor time this machine's own host gives to others during a measurement. A machine
 * that loses much is not quiet, whatever runs on it.
 */
import { readFileSync } from "node:fs";

/** Measures stolen time from its construction on. */
export class StolenTime {
  readonly #start = readTicks();

  /** The share of all processor time since the start, 0 to 1. */
  share(): number {
    const now = readTicks();
    return (now.stolen - this.#start.stolen) / Math.max(1, now.all - this.#start.all);
  }
}

/** The first line of /proc/stat is "cpu user nice system idle iowait irq softirq steal …" (proc_stat(5)). */
function readTicks(): { readonly all: number; readonly stolen: number } {
  const [line = ""] = readFileSync("/proc/stat", "utf8").split("\n");
  const ticks = line.split(/\s+/).slice(1, 9).map(Number);
  return { all: ticks.reduce((sum, one) => sum + one, 0), stolen: ticks[7] ?? 0 };
}
