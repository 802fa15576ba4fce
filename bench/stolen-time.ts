/**
 * How much of this machine's processor time its own host gives to others meanwhile. A machine that much is
 * taken from is no quiet one, whatever runs on it.
 */
import { readFileSync } from "node:fs";

export class StolenTime {
  readonly #start = readTicks();

  /** Of all processor time since the start, 0 to 1. */
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
