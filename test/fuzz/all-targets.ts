/** Every parser of outside bytes, or why one is not fuzzed. */
import { clientTargets } from "./clients.ts";
import type { Target } from "./fuzz.ts";
import { guestTargets } from "./guests.ts";
import { hostTargets } from "./host.ts";

export const targets: readonly Target[] = [...clientTargets, ...guestTargets, ...hostTargets];

/** By file and name: why. */
export const notFuzzed: Readonly<Record<string, string>> = {
  "packages/agent/src/large-json.ts parseLargeJson":
    "JSON.parse and the RPC library's own reader; what they refuse it hands on",
  "packages/agent/src/metrics.ts MetricsReader": "reads what the kernel of the guest writes",
};
