/**
 * Admission: what a sandbox in a given state does with a request. A pure function of the two.
 *
 * `ignore` answers a repeat: the sandbox already is as asked. The moving states never reach this
 * function from outside, because the single writer finishes one operation before it looks at the
 * next; after a crash they are settled before requests are taken.
 */
import { assertNever } from "@torpor/std";
import type { SandboxState } from "./state.ts";

export type Verb = "pause" | "resume" | "remove";

export type Decision =
  | { readonly kind: "accept" }
  | { readonly kind: "ignore" }
  | { readonly kind: "deny"; readonly reason: string };

const accept: Decision = { kind: "accept" };
const ignore: Decision = { kind: "ignore" };

/** @param hasSnapshot Whether a published snapshot exists. */
export function decide(state: SandboxState, verb: Verb, hasSnapshot: boolean): Decision {
  switch (verb) {
    case "pause":
      return decidePause(state);
    case "resume":
      return decideResume(state, hasSnapshot);
    case "remove":
      return accept;
    default:
      return assertNever(verb);
  }
}

function decidePause(state: SandboxState): Decision {
  if (state.kind === "running") return accept;
  if (state.kind === "paused") return ignore;
  return deny(state, "only a running sandbox can be paused");
}

function decideResume(state: SandboxState, hasSnapshot: boolean): Decision {
  if (state.kind === "running") return ignore;
  if (state.kind === "paused") return accept;
  if (state.kind === "failed" && hasSnapshot) return accept;
  if (state.kind === "failed") return deny(state, "it was never paused, so nothing can be resumed");
  return deny(state, "only a paused sandbox can be resumed");
}

function deny(state: SandboxState, reason: string): Decision {
  return { kind: "deny", reason: `the sandbox is ${state.kind}: ${reason}` };
}
