/** CLOCK_MONOTONIC in milliseconds: goes on in every process, also in an agent that was started anew. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
