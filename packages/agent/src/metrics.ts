/** `GET /metrics`: how much of processors, memory and disk is in use. */
import { readFile, statfs } from "node:fs/promises";
import { availableParallelism } from "node:os";

const kibibyte = 1024;
const mebibyte = 1 << 20;

/** The JSON answer, with the field names of the E2B wire. */
export interface Metrics {
  /** Seconds since 1970. */
  readonly ts: number;
  readonly cpu_count: number;
  /** Percent of all processors together, since the previous call; for the first call since boot. */
  readonly cpu_used_pct: number;
  /** Bytes, like the fields below without a unit of their own. */
  readonly mem_total: number;
  readonly mem_used: number;
  readonly mem_cache: number;
  readonly mem_total_mib: number;
  readonly mem_used_mib: number;
  readonly disk_used: number;
  readonly disk_total: number;
}

interface CpuTicks {
  readonly busy: number;
  readonly total: number;
}

/** Reads the kernel's counters; keeps those of the last call to compute the processor's use. */
export class MetricsReader {
  /** SNAPSHOT: counters of the same kernel, which stand still during a pause as the kernel does. */
  #last: CpuTicks = { busy: 0, total: 0 };

  /** Reads the current values. @throws system error */
  async read(): Promise<Metrics> {
    const [stat, meminfo, disk] = await Promise.all([
      readFile("/proc/stat", "utf8"),
      readFile("/proc/meminfo", "utf8"),
      statfs("/"),
    ]);
    const ticks = parseCpu(stat);
    const elapsed = ticks.total - this.#last.total;
    const busy = ticks.busy - this.#last.busy;
    this.#last = ticks;
    const total = memoryBytes(meminfo, "MemTotal");
    const used = total - memoryBytes(meminfo, "MemAvailable");
    return {
      ts: Math.floor(Date.now() / 1000),
      cpu_count: availableParallelism(),
      cpu_used_pct: elapsed <= 0 ? 0 : Math.round((busy / elapsed) * 10_000) / 100,
      mem_total: total,
      mem_used: used,
      mem_cache: memoryBytes(meminfo, "Cached"),
      mem_total_mib: Math.floor(total / mebibyte),
      mem_used_mib: Math.floor(used / mebibyte),
      disk_used: (disk.blocks - disk.bfree) * disk.bsize,
      disk_total: disk.blocks * disk.bsize,
    };
  }
}

/** First line of /proc/stat: user nice system idle iowait irq softirq steal … */
function parseCpu(stat: string): CpuTicks {
  const fields = stat.slice(0, stat.indexOf("\n")).split(/\s+/).slice(1, 9).map(Number);
  const total = fields.reduce((sum, ticks) => sum + ticks, 0);
  const idle = (fields[3] ?? 0) + (fields[4] ?? 0);
  return { busy: total - idle, total };
}

function memoryBytes(meminfo: string, name: string): number {
  const match = new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(meminfo);
  return Number(match?.[1] ?? 0) * kibibyte;
}
