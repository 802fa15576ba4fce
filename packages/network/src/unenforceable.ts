import { TorporError } from "@torpor/std";

/** A policy that would have to be promised without being kept is refused. */
export function unenforceable(why: string): TorporError {
  return new TorporError("network.unenforceable", `this sandbox cannot reach the internet: ${why}`);
}
