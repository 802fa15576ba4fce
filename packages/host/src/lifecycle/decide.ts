/**
 * Admission: how a sandbox in a given state responds to a request. A pure function of its
 * arguments.
 *
 * `ignore` is the response to a repeat: the sandbox already is as requested. Of the transient
 * states only "removing" reaches this function from outside. The single writer finishes one
 * operation before it admits the next, and an operation ends in a resting state even if that cannot
 * be stored (writer.ts); after a crash, transient states are settled before requests are accepted.
 */
import { assertNever } from "@torpor/std";
import type { SandboxState } from "./state.ts";

/** The requests that a sandbox admits or refuses by its state. */
export type Verb = "pause" | "resume" | "checkpoint" | "remove";

/** The response to a request; `reason` is for the caller. */
export type Decision =
  | { readonly kind: "accept" }
  | { readonly kind: "ignore" }
  | { readonly kind: "deny"; readonly reason: string }
  /** The request names a run that is over. */
  | { readonly kind: "stale"; readonly reason: string };

/** A request and the state of the sandbox that receives it. */
export interface Admission {
  readonly state: SandboxState;
  readonly verb: Verb;
  /** Whether a published snapshot exists. */
  readonly hasSnapshot: boolean;
  /** The generation of the sandbox's newest run. */
  readonly epoch: number;
  /** The epoch the request was made for, if it names one. */
  readonly wantedEpoch?: number | undefined;
}

const accept: Decision = { kind: "accept" };
const ignore: Decision = { kind: "ignore" };

/**
 * Decides whether the state allows the request. An epoch that does not match always makes it stale.
 */
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
