import { TorporError } from "@torpor/std";

/**
 * The error for a policy that this network cannot enforce: Torpor refuses it rather than promise
 * it. The code is `network.unenforceable`.
 */
export function unenforceable(why: string): TorporError {
  return new TorporError("network.unenforceable", `this sandbox cannot reach the internet: ${why}`);
}
