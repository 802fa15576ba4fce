/**
 * CLOCK_MONOTONIC in milliseconds: the same clock in every process of the guest, and in a restarted
 * agent.
 */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
