/** Settings of a sandbox that can change without a new run: its network policy and its timeout. */
import { extend, setTimeoutMs } from "../lifecycle/lifetime.ts";
import { type NetworkRequest, openNetwork } from "../network-request.ts";
import { applyNetwork, checkNetwork } from "../network-rules.ts";
import type { Turn } from "./writer.ts";

/**
 * Replaces the network request. The network is set first, because it may refuse the request; if the
 * record cannot be stored, the network gets its old policy back.
 * @throws argument.invalid, network.unenforceable, storage.failed; nothing has changed then
 */
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

/** Replaces the timeout; null removes it. @throws storage.failed */
export async function changeTimeoutMs(turn: Turn, timeoutMs: number | null): Promise<void> {
  const { lifetime, startedAtMs } = turn.record;
  const runningSinceMs = turn.run === undefined ? undefined : startedAtMs;
  await turn.save({
    lifetime: setTimeoutMs(lifetime, timeoutMs, runningSinceMs, Date.now()),
  });
  turn.events.timed();
}

/**
 * Gives a running sandbox at least this long from now, and does nothing to any other.
 * @throws storage.failed
 */
export async function extendTimeoutMs(turn: Turn, timeoutMs: number | null): Promise<void> {
  if (turn.run === undefined) return;
  await turn.save({ lifetime: extend(turn.record.lifetime, timeoutMs, Date.now()) });
  turn.events.timed();
}
