import assert from "node:assert/strict";
import { test } from "node:test";
import { BugError } from "@torpor/std";
import { type Verb, decide } from "./decide.ts";
import { type SandboxState, type StateKind, enter, moves } from "./state.ts";

const vm = { pid: 1, startTicks: 1, bootId: "b", runFolder: "/r", memoryPath: "/m", memoryMiB: 1 };
const running = { vm, network: { kind: "namespace" }, openDisks: [] } as const;

const states: Readonly<Record<StateKind, SandboxState>> = {
  creating: { kind: "creating" },
  running: { kind: "running", ...running },
  checkpointing: { kind: "checkpointing", snapshotId: "s", ...running },
  pausing: { kind: "pausing", snapshotId: "s", ...running },
  paused: { kind: "paused" },
  resuming: { kind: "resuming" },
  removing: { kind: "removing" },
  failed: { kind: "failed", reason: "why", lastLines: [] },
};
const kinds = Object.keys(states) as StateKind[];

function decisionOf(state: SandboxState, verb: Verb, hasSnapshot = true): string {
  return decide({ state, verb, hasSnapshot, epoch: 3 }).kind;
}

test("enter() allows exactly the moves of the table", () => {
  for (const from of kinds) {
    for (const to of kinds) {
      const legal = to in moves[from];
      if (legal) assert.equal(enter(states[from], states[to]).kind, to);
      else assert.throws(() => enter(states[from], states[to]), BugError, `${from} to ${to}`);
    }
  }
});

test("every state can be left for removing, except removing itself", () => {
  for (const kind of kinds) assert.equal("removing" in moves[kind], kind !== "removing", kind);
});

test("decide() accepts, ignores or denies every request in every state", () => {
  const table: Readonly<Record<Verb, Partial<Record<StateKind, string>>>> = {
    pause: { running: "accept", paused: "ignore" },
    resume: { paused: "accept", running: "ignore", failed: "accept" },
    checkpoint: { running: "accept", paused: "ignore" },
    remove: Object.fromEntries(kinds.map((kind) => [kind, "accept"])),
  };
  for (const verb of Object.keys(table) as Verb[]) {
    for (const kind of kinds) {
      const expected = table[verb][kind] ?? "deny";
      assert.equal(decisionOf(states[kind], verb), expected, `${verb} while ${kind}`);
    }
  }
});

test("decide() refuses what was meant for another run, whatever the state", () => {
  for (const kind of kinds) {
    for (const verb of ["pause", "resume", "checkpoint", "remove"] as const) {
      const request = { state: states[kind], verb, hasSnapshot: true, epoch: 3 };
      assert.equal(decide({ ...request, wantedEpoch: 2 }).kind, "stale");
      assert.equal(decide({ ...request, wantedEpoch: 3 }).kind, decide(request).kind);
    }
  }
});

test("a failed sandbox without a snapshot cannot be resumed", () => {
  assert.equal(decisionOf(states.failed, "resume", false), "deny");
});

test("what decide() accepts, the table of moves allows", () => {
  const target: Readonly<Record<Verb, StateKind>> = {
    pause: "pausing",
    resume: "resuming",
    checkpoint: "checkpointing",
    remove: "removing",
  };
  for (const verb of Object.keys(target) as Verb[]) {
    for (const kind of kinds.filter((one) => one !== "removing")) {
      if (decisionOf(states[kind], verb) !== "accept") continue;
      assert.ok(target[verb] in moves[kind], `${verb} while ${kind}`);
    }
  }
});
