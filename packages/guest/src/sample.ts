/** Parses what an agent's `GET /metrics` answers; the guest is not trusted with the shape of it. */
import { type JsonObject, TorporError, parseObject } from "@torpor/std";

/** The resources that one guest uses at one moment. */
export interface GuestSample {
  /** By the host's clock. */
  readonly atMs: number;
  readonly cpuCount: number;
  /** Sum of all processors, in percent of what they offer. */
  readonly cpuUsedPercent: number;
  readonly memoryUsedBytes: number;
  readonly memoryTotalBytes: number;
  readonly memoryCacheBytes: number;
  readonly diskUsedBytes: number;
  readonly diskTotalBytes: number;
}

/**
 * Parses the agent's answer, read at `atMs`.
 * @throws guest.refused when a field is missing or wrong.
 */
export function parseSample(value: unknown, atMs: number): GuestSample {
  const said = parseObject(value, "metrics");
  return {
    atMs,
    cpuCount: numberOf(said, "cpu_count"),
    cpuUsedPercent: numberOf(said, "cpu_used_pct"),
    memoryUsedBytes: numberOf(said, "mem_used"),
    memoryTotalBytes: numberOf(said, "mem_total"),
    memoryCacheBytes: numberOf(said, "mem_cache"),
    diskUsedBytes: numberOf(said, "disk_used"),
    diskTotalBytes: numberOf(said, "disk_total"),
  };
}

function numberOf(said: JsonObject, name: string): number {
  const value = said[name];
  if (typeof value === "number" && Number.isFinite(value) && value >= 0) return value;
  throw new TorporError("guest.refused", `the agent's metrics lack ${name}`);
}
