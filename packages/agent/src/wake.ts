/**
 * Makes the guest right again after a boot or a restore, and lets user processes run.
 *
 * Called for `POST /init` only. The steps, in order:
 *
 *   1. the kernel's and the agent's random generators forget what other clones share with them;
 *   2. the wall clock is set;
 *   3. the sandbox gets its own key, token, environment, user and folder;
 *   4. a new sandbox becomes a machine of its own: host name, machine id, boot id, SSH keys;
 *   5. connections from before the snapshot are destroyed, the agent's and those of user programs;
 *   6. the file that programs watch says that there was a restore;
 *   7. the agent's timers continue;
 *   8. user processes are thawed, and new work is taken;
 *   9. hooks in the guest run, and the answer counts them.
 *
 * ORDER: thawing comes last, except for the hooks. Until then no user code has run with an old
 * clock, an old token, another sandbox's name or random numbers that another clone draws too. Work
 * is taken after it, never into a frozen cgroup.
 *
 * Generations make it safe to repeat and safe against late repeats. A generation smaller than the
 * last is refused. The same generation gets the same answer and changes nothing, so a repeat that
 * arrives late cannot thaw what a newer prepare has frozen. A wake that fails half-way leaves the
 * guest quiesced, and the host repeats it: each step may run twice.
 */
import type { Socket } from "node:net";
import type { ServerConnTracker } from "@torpor/conntracker";
import type { TcpConnectionName } from "@torpor/native";
import type { InitRequest, InitResponse } from "@torpor/protocol";
import { type Failpoint, type Logger, type Step, TorporError, assert, runSteps } from "@torpor/std";
import type { AgentConfig } from "./config.ts";
import { randomHash } from "./entropy.ts";
import type { Gate } from "./gate.ts";
import { writeGeneration } from "./generation-file.ts";
import type { Hooks } from "./hooks.ts";
import { type Identity, writeMarkers } from "./identity.ts";
import type { Machine } from "./machine.ts";
import { monotonicMs } from "./monotonic-clock.ts";
import type { Quiescer } from "./quiesce.ts";
import type { QuietTimers } from "./quiet-timers.ts";
import type { UserCgroup } from "./user-cgroup.ts";

/** A clock that is off by less is left alone: the host's measurement is no more accurate. */
const clockToleranceMs = 10;
/**
 * LIMIT: attempts to set the clock, in a guest that stands still again and again before an attempt
 * ends.
 */
const clockSettingsMax = 5;

/** The parts of the agent that waking uses. */
export interface WakeContext {
  readonly gate: Gate;
  readonly tracker: ServerConnTracker;
  readonly cgroup: UserCgroup | undefined;
  readonly timers: QuietTimers;
  readonly identity: Identity;
  readonly machine: Machine;
  readonly quiescer: Quiescer;
  readonly hooks: Hooks;
  readonly config: AgentConfig;
  readonly log: Logger;
  readonly failpoint?: Failpoint | undefined;
}

/** One `POST /init`. */
export interface InitCall {
  readonly request: InitRequest;
  /** `monotonicMs()` when the request arrived, for a request without `timestampMonoMs`. */
  readonly arrivedMonoMs: number;
  /** The connection of the call. It is newer than the snapshot, so it is spared. */
  readonly carrier: Socket;
}

/** The values that the steps of one wake use and find out. */
interface Wake extends WakeContext, InitCall {
  clockStepMs: number;
  connectionsDestroyed: number;
  socketsDestroyed: number;
  randomHash: string;
}

const steps: readonly Step<Wake>[] = [
  {
    name: "renew random generators",
    budgetMs: 1_000,
    async run(wake) {
      wake.machine.renewGenerators(hostEntropy(wake));
      wake.randomHash = randomHash();
    },
  },
  {
    name: "set the clock",
    budgetMs: 1_000,
    async run(wake) {
      const { machine, request } = wake;
      const { timestampMs, timestampMonoMs = wake.arrivedMonoMs } = request;
      const dueMs = (): number => timestampMs + (monotonicMs() - timestampMonoMs);
      // On a busy host the vCPU may stand still between reading and setting the clock; then the
      // value is late.
      for (let settings = 0; settings < clockSettingsMax; settings += 1) {
        const offMs = Math.round(dueMs() - machine.wallClockMs());
        if (Math.abs(offMs) <= clockToleranceMs) return;
        machine.setWallClock(dueMs());
        wake.clockStepMs += offMs;
      }
    },
  },
  {
    name: "take the identity",
    budgetMs: 5_000,
    async run({ identity, request, config, log }) {
      const before = identity.current;
      identity.replace(request);
      const { sandboxId, templateId } = request;
      if (before.sandboxId === sandboxId && before.templateId === templateId) return;
      // A sandbox that wakes is worth more than marker files that programs may look at.
      try {
        writeMarkers(config.markerFolder, identity.current);
      } catch (cause) {
        log.warn("no marker files", { cause });
      }
    },
  },
  {
    name: "become a machine of its own",
    budgetMs: 1_000,
    async run({ machine, request, log }) {
      if (request.machine !== null) machine.becomeMachine(request.machine, log);
    },
  },
  {
    // ORDER: after the generators, which the keys are drawn from.
    name: "renew SSH host keys",
    budgetMs: 8_000,
    async run({ machine, request, log }, deadline) {
      if (request.machine === null) return;
      // A guest without SSH is more useful than one that does not wake.
      try {
        await machine.renewSshHostKeys(deadline);
      } catch (cause) {
        log.error("no SSH host keys", { cause });
      }
    },
  },
  {
    name: "destroy old connections",
    budgetMs: 1_000,
    async run(wake) {
      const { tracker, request, carrier } = wake;
      const { destroyed } = tracker.restoreAfterSnapshot(request.generation, { carrier });
      wake.connectionsDestroyed += destroyed;
    },
  },
  {
    name: "destroy connections of user programs",
    budgetMs: 5_000,
    async run(wake, deadline) {
      const { machine, request, carrier, log } = wake;
      try {
        const { count, complete } = machine.destroyTcpConnections(nameOf(carrier), deadline);
        wake.socketsDestroyed += count;
        if (!complete) throw deadline.error();
      } catch (cause) {
        // Two guests that share a connection would encrypt different data with the same numbers. A
        // guest that is resumed, and has no copy, only waits longer on dead connections.
        if (request.reason !== "resume") throw cause;
        log.error("connections of user programs are left", { cause });
      }
    },
  },
  {
    name: "tell of the restore",
    budgetMs: 100,
    async run(wake) {
      const { config, request } = wake;
      writeGeneration(config.generationPath, request.generation, hostEntropy(wake));
    },
  },
  {
    // ORDER: after the connections, or a keepalive would be written to one that is dead.
    name: "resume timers",
    budgetMs: 100,
    async run({ timers }) {
      timers.resume();
    },
  },
  {
    name: "thaw user processes and take new work",
    budgetMs: 5_000,
    async run({ cgroup, gate }) {
      cgroup?.thaw();
      gate.open();
    },
  },
];

function hostEntropy({ request }: InitCall): Buffer {
  return Buffer.from(request.entropy, "base64");
}

/** Undefined for a socket that has been closed in the meantime. */
function nameOf(socket: Socket): TcpConnectionName | undefined {
  const { localAddress, localPort, remoteAddress, remotePort } = socket;
  if (localAddress === undefined || localPort === undefined) return undefined;
  if (remoteAddress === undefined || remotePort === undefined) return undefined;
  return { localAddress, localPort, remoteAddress, remotePort };
}

/** Names of the steps in order, for tests that fail each of them. */
export const wakeStepNames: readonly string[] = steps.map(({ name }) => name);

/** Wakes the guest, once for each generation. */
export class Waker {
  readonly #context: WakeContext;
  /** SNAPSHOT: the last wake of the run that was saved; a restore brings a larger generation. */
  #last: { readonly generation: number; readonly response: Promise<InitResponse> } | undefined;

  constructor(context: WakeContext) {
    this.#context = context;
  }

  /**
   * Whether the guest has woken to `generation`, completely or at least up to taking its identity.
   */
  isRepeat(generation: number): boolean {
    return this.#context.identity.current.generation === generation;
  }

  /**
   * Wakes the guest. A repeat of the last generation gets the same answer.
   * @throws sandbox.wrongState for a generation below the last one, or during a prepare; the
   *   TorporError of the step that failed.
   */
  async wake(call: InitCall): Promise<InitResponse> {
    const { generation } = call.request;
    const last = this.#last;
    if (last?.generation === generation) return await last.response;
    const newest = Math.max(last?.generation ?? 0, this.#context.identity.current.generation);
    if (generation < newest) {
      throw new TorporError(
        "sandbox.wrongState",
        `generation ${generation} is older than ${newest}`,
        { effect: "none" },
      );
    }
    const response = this.#wakeUp(call);
    this.#last = { generation, response };
    try {
      return await response;
    } catch (cause) {
      // The failed wake is forgotten, so that its repeat does the work.
      this.#last = last;
      throw cause;
    }
  }

  async #wakeUp(call: InitCall): Promise<InitResponse> {
    const { quiescer, hooks } = this.#context;
    const answer = await quiescer.endRest(async () => await this.#run(call));
    const { reason, suspendedMs } = call.request;
    return {
      ...answer,
      hooks: await hooks.run({ moment: "post-restore", reason, suspendedMs }),
    };
  }

  async #run(call: InitCall): Promise<Omit<InitResponse, "hooks">> {
    const wake: Wake = {
      ...this.#context,
      ...call,
      clockStepMs: 0,
      connectionsDestroyed: 0,
      socketsDestroyed: 0,
      randomHash: "",
    };
    await runSteps(steps, wake, { verb: "init", failpoint: this.#context.failpoint });
    assert(wake.randomHash !== "", "a step draws from the generators");
    return {
      generation: call.request.generation,
      randomHash: wake.randomHash,
      clockStepMs: wake.clockStepMs,
      connectionsDestroyed: wake.connectionsDestroyed,
      socketsDestroyed: wake.socketsDestroyed,
    };
  }
}
