/**
 * Quiesces the guest for a snapshot, and wakes it if none is taken.
 *
 *   awake ──prepare──► quiescing ──all steps done──► quiesced ──cancel──► awake
 *     ▲                    │                            │
 *     └─a step fails, undo─┘                            └──snapshot, restore, init (wake.ts)──► awake
 *
 * Called for `POST /snapshot/prepare` and `POST /snapshot/cancel` only. The steps, in order:
 *
 *   1. hooks in the guest run, while everything else still runs;
 *   2. no new work is taken: everything but health, init and cancel is refused from now on;
 *   3. idle connections are closed, busy ones noted, to be destroyed by the next init;
 *   4. user processes are frozen, so that none runs again before the next init;
 *   5. the agent's own timers stop;
 *   6. the answer is made; then, if the agent has grown since the last time, garbage is collected
 *      and free memory given back, so that it is not saved. A guest that is checkpointed keeps its
 *      garbage: its users would wait for the collection.
 *
 * INVARIANT: in `quiesced` no process of a user runs, none can be started, and the agent does
 * nothing of its own accord. A step whose effect lasts puts its undo into `held`; a failure runs
 * all of them, newest first, and `cancel` does the same later. The undo of a step is safe to
 * repeat. Once the state is `awake` again, hooks open what hooks closed; a call that arrives while
 * they run finds the guest awake and is not refused.
 */
import type { ServerConnTracker } from "@torpor/conntracker";
import type { HookCounts, PrepareReason, PrepareResponse } from "@torpor/protocol";
import { type Failpoint, type Step, TorporError, assert, runSteps } from "@torpor/std";
import { defaultLimits } from "./config.ts";
import type { Gate } from "./gate.ts";
import type { Hooks } from "./hooks.ts";
import type { Identity } from "./identity.ts";
import type { Machine } from "./machine.ts";
import type { QuietTimers } from "./quiet-timers.ts";
import type { UserCgroup } from "./user-cgroup.ts";

/** The parts of the agent that quiescing uses. */
export interface QuiesceContext {
  readonly gate: Gate;
  readonly tracker: ServerConnTracker;
  readonly cgroup: UserCgroup | undefined;
  readonly timers: QuietTimers;
  readonly identity: Identity;
  readonly machine: Machine;
  readonly hooks: Hooks;
  readonly failpoint?: Failpoint | undefined;
}

/** The states of the drawing above. */
export type RestState = "awake" | "quiescing" | "quiesced" | "waking";

/** The values that the steps of one prepare compute and hold. */
interface Preparation extends QuiesceContext {
  /** The undos of the steps so far; kept for `cancel` when all succeed. */
  readonly held: AsyncDisposableStack;
  readonly reason: PrepareReason;
  hookCounts: HookCounts;
  connections: { closed: number; recorded: number };
  processesFrozen: number;
  answer: Buffer | undefined;
}

const steps: readonly Step<Preparation>[] = [
  {
    // ORDER: before anything is refused or frozen, because hooks ask the programs of the guest to
    // do something; and right before that, so that little can happen in between.
    name: "run hooks",
    // Hooks of an earlier moment may have to end first.
    budgetMs: 2 * defaultLimits.hooksBudgetMs,
    async run(preparation) {
      const { hooks, reason } = preparation;
      const occasion = { moment: "pre-snapshot", reason, suspendedMs: 0 } as const;
      preparation.hookCounts = await hooks.run(occasion);
    },
  },
  {
    name: "refuse new work",
    budgetMs: 100,
    async run({ gate, held }, _deadline, undo) {
      undo.defer(async () => await held.disposeAsync());
      gate.close();
      held.defer(() => gate.open());
    },
  },
  {
    name: "retire connections",
    budgetMs: 1_000,
    async run(preparation) {
      const { tracker, held } = preparation;
      held.defer(() => tracker.cancel());
      preparation.connections = tracker.prepareForSnapshot();
      await tracker.settled();
    },
  },
  {
    name: "freeze user processes",
    budgetMs: 5_000,
    async run(preparation, deadline) {
      const { cgroup, held } = preparation;
      if (cgroup === undefined) return;
      held.defer(() => cgroup.thaw());
      await cgroup.freeze(deadline);
      preparation.processesFrozen = cgroup.processCount();
    },
  },
  {
    name: "suspend timers",
    budgetMs: 100,
    async run({ timers, held }) {
      held.defer(() => timers.resume());
      timers.suspend();
    },
  },
  {
    name: "make the answer",
    budgetMs: 100,
    async run(preparation) {
      const { connections, hookCounts, identity, processesFrozen } = preparation;
      const answer: PrepareResponse = {
        generation: identity.current.generation,
        connectionsClosed: connections.closed,
        // The connection of this request is among them, and ends with its answer.
        connectionsRecorded: Math.max(0, connections.recorded - 1),
        processesFrozen,
        hooks: hookCounts,
      };
      preparation.answer = Buffer.from(JSON.stringify(answer));
    },
  },
  {
    // ORDER: last, so that nothing that the steps above allocate is saved as garbage.
    name: "shrink the heap",
    budgetMs: 5_000,
    async run({ machine, reason }) {
      if (reason === "pause") machine.shrinkHeap();
    },
  },
];

/** Names of the steps in order, for tests that fail each of them. */
export const quiesceStepNames: readonly string[] = steps.map(({ name }) => name);

/** The state of the guest, and the only way to change it. */
export class Quiescer {
  readonly #context: QuiesceContext;
  /** SNAPSHOT: `quiesced` in every snapshot; `init` or `cancel` ends it. */
  #state: RestState = "awake";
  #held: AsyncDisposableStack | undefined;

  constructor(context: QuiesceContext) {
    this.#context = context;
  }

  get state(): RestState {
    return this.#state;
  }

  /**
   * Quiesces the guest. Returns the answer as bytes, because making it later would allocate.
   * @throws sandbox.wrongState unless awake; the TorporError of the step that failed, with all
   *   steps undone.
   */
  async prepare(reason: PrepareReason): Promise<Buffer> {
    this.#expect("awake", "prepare");
    this.#state = "quiescing";
    const preparation: Preparation = {
      ...this.#context,
      held: new AsyncDisposableStack(),
      reason,
      hookCounts: { run: 0, failed: 0 },
      connections: { closed: 0, recorded: 0 },
      processesFrozen: 0,
      answer: undefined,
    };
    try {
      await runSteps(steps, preparation, { verb: "prepare", failpoint: this.#context.failpoint });
      assert(preparation.answer !== undefined, "a step makes the answer");
      this.#held = preparation.held;
      this.#state = "quiesced";
      return preparation.answer;
    } catch (cause) {
      this.#state = "awake";
      await this.#goOn();
      throw cause;
    }
  }

  /**
   * Undoes a prepare. Safe to repeat: false when nothing was prepared.
   * @throws sandbox.wrongState during a prepare or init.
   */
  async cancel(): Promise<boolean> {
    if (this.#state === "awake") return false;
    this.#expect("quiesced", "cancel");
    this.#state = "waking";
    try {
      await this.#held?.disposeAsync();
      // The stack does not repeat a thaw that failed in an earlier attempt.
      this.#context.cgroup?.thaw();
      this.#held = undefined;
      this.#state = "awake";
    } finally {
      if (this.#state === "waking") this.#state = "quiesced";
    }
    await this.#goOn();
    return true;
  }

  /**
   * Runs `wake`, which ends the quiesced state. If it fails, the guest stays quiesced and the call
   * may be repeated.
   * @throws sandbox.wrongState during a prepare or cancel; the error of `wake`.
   */
  async endRest<T>(wake: () => Promise<T>): Promise<T> {
    const before = this.#state;
    if (before !== "awake") this.#expect("quiesced", "init");
    this.#state = "waking";
    try {
      const result = await wake();
      // `wake` undid the steps in its own order, so their undos are dropped.
      this.#held?.move();
      this.#held = undefined;
      this.#state = "awake";
      return result;
    } finally {
      if (this.#state === "waking") this.#state = before;
    }
  }

  /** Runs the hooks that open again what hooks closed, although there was no restore. */
  async #goOn(): Promise<void> {
    const occasion = { moment: "post-restore", reason: "continue", suspendedMs: 0 } as const;
    await this.#context.hooks.run(occasion);
  }

  #expect(wanted: RestState, verb: string): void {
    if (this.#state === wanted) return;
    throw new TorporError("sandbox.wrongState", `cannot ${verb}: the guest is ${this.#state}`);
  }
}
