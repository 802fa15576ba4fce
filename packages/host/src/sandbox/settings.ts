/** What can be changed of a sandbox without a new run: what it may reach, and how long it runs. */
import { extend, setTimeoutMs } from "../lifecycle/lifetime.ts";
import { type NetworkRequest, openNetwork } from "../network-request.ts";
import { applyNetwork, checkNetwork } from "../network-rules.ts";
import type { Turn } from "./writer.ts";

/** The VM is asked first, because it may refuse; a record that cannot be stored takes it back. */
export async function changeNetwork(
  turn: Turn,
  asked: Partial<NetworkRequest> | null,
): Promise<void> {
  const request = asked === null ? null : { ...openNetwork, ...asked };
  const { host, run, record } = turn;
  checkNetwork(request, host.outside);
  if (run !== undefined) applyNetwork(run.network, request);
  try {
    await turn.save({ network: request });
  } catch (cause) {
    if (run !== undefined) applyNetwork(run.network, record.network);
    throw cause;
  }
}

export async function changeTimeoutMs(turn: Turn, timeoutMs: number | null): Promise<void> {
  const { lifetime, startedAtMs } = turn.record;
  const runningSinceMs = turn.run === undefined ? undefined : startedAtMs;
  await turn.save({
    lifetime: setTimeoutMs(lifetime, timeoutMs, runningSinceMs, Date.now()),
  });
  turn.events.timed();
}

/** Does nothing to one that does not run. */
export async function extendTimeoutMs(turn: Turn, timeoutMs: number | null): Promise<void> {
  if (turn.run === undefined) return;
  await turn.save({ lifetime: extend(turn.record.lifetime, timeoutMs, Date.now()) });
  turn.events.timed();
}
