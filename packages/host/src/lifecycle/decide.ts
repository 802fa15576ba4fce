/**
 * Admission: what a sandbox in a given state does with a request. A pure function of what it is told.
 *
 * `ignore` answers a repeat: the sandbox already is as asked. Of the moving states none but "removing"
 * reaches this function from outside: the single writer finishes one operation before it looks at the
 * next, and an operation ends at rest even if that cannot be stored (writer.ts); after a crash they are
 * settled before requests are taken.
 */
import { assertNever } from "@torpor/std";
import type { SandboxState } from "./state.ts";

export type Verb = "pause" | "resume" | "checkpoint" | "remove";

export type Decision =
  | { readonly kind: "accept" }
  | { readonly kind: "ignore" }
  | { readonly kind: "deny"; readonly reason: string }
  /** The request was made for a run that is over. */
  | { readonly kind: "stale"; readonly reason: string };

export interface Admission {
  readonly state: SandboxState;
  readonly verb: Verb;
  /** Whether a published snapshot exists. */
  readonly hasSnapshot: boolean;
  /** Of the sandbox's newest run. */
  readonly epoch: number;
  /** The epoch the request was made for, if it names one. */
  readonly wantedEpoch?: number | undefined;
}

const accept: Decision = { kind: "accept" };
const ignore: Decision = { kind: "ignore" };

export function decide(admission: Admission): Decision {
  const { state, verb, hasSnapshot, epoch, wantedEpoch } = admission;
  if (wantedEpoch !== undefined && wantedEpoch !== epoch) {
    return {
      kind: "stale",
      reason: `the request is for epoch ${wantedEpoch}, and the sandbox is in epoch ${epoch}`,
    };
  }
  switch (verb) {
    case "pause":
      return decidePause(state);
    case "resume":
      return decideResume(state, hasSnapshot);
    case "checkpoint":
      return decideCheckpoint(state);
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

/** A paused sandbox is its own checkpoint. */
function decideCheckpoint(state: SandboxState): Decision {
  if (state.kind === "running") return accept;
  if (state.kind === "paused") return ignore;
  return deny(state, "only a running or a paused sandbox can be forked or made a snapshot of");
}

function deny(state: SandboxState, reason: string): Decision {
  return { kind: "deny", reason: `the sandbox is ${state.kind}: ${reason}` };
}
