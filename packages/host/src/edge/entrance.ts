/**
 * From the name of a sandbox to a run of its VM that takes requests; wakes the sandbox if that is
 * allowed.
 *
 * A request that comes during a transition, while the sandbox is being paused or woken, waits for
 * its end. All requests that wait for one sandbox to wake share one resume. A request that may not
 * pass is refused before anything is woken.
 */
import type { IncomingHttpHeaders } from "node:http";
import { Deadline, TorporError } from "@torpor/std";
import type { Activity } from "../activity.ts";
import type { SandboxState } from "../lifecycle/state.ts";
import {
  type IngressRecord,
  denialOf,
  showsToken,
  wakeDenialOf,
  wakesOnTraffic,
  wokenTimeoutMs,
} from "./ingress.ts";
import { type EdgeLimits, retryAfterSeconds } from "./limits.ts";
import type { Refusal, RefusalPage } from "./refusal.ts";
import { type Excess, Shares } from "./shares.ts";
import type { Traffic } from "./traffic.ts";

/** LIMIT: how long a request waits for a sandbox that is being paused or woken. */
const transitionBudgetMs = 60_000;

/** A sandbox as the edge sees it. */
export interface EdgeSandbox {
  readonly record: IngressRecord & { readonly state: Pick<SandboxState, "kind"> };
  readonly run: { readonly traffic: Traffic; readonly isStalled?: boolean } | undefined;
  readonly activity: Activity;
  resume(command: { readonly timeoutMs?: number | null }): Promise<unknown>;
  /** Settles when all commands given to the sandbox so far are done. */
  whenIdle(): Promise<void>;
}

/** A request that wants to reach a port of a sandbox. */
export interface Visitor {
  readonly sandboxId: string;
  readonly port: number;
  readonly headers: IncomingHttpHeaders;
  /** It only checks whether the guest is there, so it is no reason to wake it. */
  readonly isProbe: boolean;
  /** Undefined on the Unix socket. */
  readonly address: string | undefined;
}

/** The entrance's decision. */
export type Admission =
  | {
      readonly kind: "admitted";
      readonly sandbox: EdgeSandbox;
      readonly traffic: Traffic;
      /** A share of the limits; disposing it frees the share. */
      readonly place: Disposable;
    }
  | { readonly kind: "refused"; readonly refusal: Refusal };

/** Decides which requests pass, and wakes sandboxes for them. */
export class Entrance {
  readonly #find: (sandboxId: string) => EdgeSandbox | undefined;
  readonly #wakes = new WeakMap<EdgeSandbox, Promise<WakeFailure | undefined>>();
  readonly #transitionMs: number;
  readonly #limits: EdgeLimits;
  readonly #shares: Shares;

  constructor(
    find: (sandboxId: string) => EdgeSandbox | undefined,
    limits: EdgeLimits,
    transitionMs = transitionBudgetMs,
  ) {
    this.#find = find;
    this.#limits = limits;
    this.#shares = new Shares(limits);
    this.#transitionMs = transitionMs;
  }

  /**
   * Admits or refuses a request, after it has waited and woken as needed.
   * @throws deadline.exceeded when the transition takes too long
   */
  async admit(visitor: Visitor): Promise<Admission> {
    const { sandboxId, port, headers, address } = visitor;
    const sandbox = this.#find(sandboxId);
    if (sandbox === undefined) return notFound(sandboxId, "The sandbox was not found");
    const denial = denialOf(sandbox.record, port, headers);
    if (denial !== undefined) return refused(403, sandboxId, denial);
    const hasToken = (): boolean => showsToken(sandbox.record, port, headers);
    // A request holds a place while it waits, too.
    const taken = this.#shares.take({ sandboxId, address, hasToken });
    if (typeof taken === "string") return overfull(taken, sandboxId, this.#limits);
    using place = new DisposableStack();
    place.use(taken);
    const deadline = Deadline.after(this.#transitionMs, "the sandbox's transition");
    for (;;) {
      const traffic = sandbox.run?.traffic;
      if (sandbox.run?.isStalled === true) return stalled(sandboxId);
      if (traffic?.phase === "open")
        return { kind: "admitted", sandbox, traffic, place: place.move() };
      deadline.check();
      if (traffic?.phase === "held") {
        await deadline.race(traffic.whenReleased());
        continue;
      }
      const { state } = sandbox.record;
      if (state.kind === "paused") {
        const refusal = wakeRefusalOf(sandbox, visitor);
        if (refusal !== undefined) return refusal;
        const failure = await deadline.race(this.#wake(sandbox));
        if (failure !== undefined) return refused(failure.status, sandboxId, failure.message);
      } else {
        await deadline.race(sandbox.whenIdle());
      }
      const isWhereItWas = sandbox.record.state === state && sandbox.run?.traffic === traffic;
      if (isWhereItWas || this.#find(sandboxId) !== sandbox) {
        return notFound(sandboxId, "The sandbox was not found: it is not running", notRunningPage);
      }
    }
  }

  /** Wakes the sandbox, once for all requests that wait. */
  #wake(sandbox: EdgeSandbox): Promise<WakeFailure | undefined> {
    const underWay = this.#wakes.get(sandbox);
    if (underWay !== undefined) return underWay;
    const wake = wakeByTraffic(sandbox).finally(() => this.#wakes.delete(sandbox));
    this.#wakes.set(sandbox, wake);
    return wake;
  }
}

interface WakeFailure {
  readonly status: number;
  readonly message: string;
}

/** The error is in the log; a client that merely knows the sandbox's id does not get it. */
async function wakeByTraffic(sandbox: EdgeSandbox): Promise<WakeFailure | undefined> {
  try {
    await sandbox.resume({ timeoutMs: wokenTimeoutMs(sandbox.record) });
    return undefined;
  } catch (cause) {
    const { status } = TorporError.from(cause, "internal");
    if (status === 429) {
      return { status, message: "Too many sandboxes are starting to wake this one now" };
    }
    return { status: 502, message: "The sandbox could not be woken" };
  }
}

function overfull(excess: Excess, sandboxId: string, limits: EdgeLimits): Admission {
  const inFlight: Readonly<Record<Excess, Omit<Refusal, "sandboxId">>> = {
    sandbox: {
      status: 429,
      message: "The sandbox has as many requests in flight as it may",
      connectionLimit: limits.exchangesPerSandbox,
    },
    address: {
      status: 429,
      message: "Your address has as many requests in flight as it may",
      connectionLimit: limits.strangersPerAddress,
    },
    all: {
      status: 503,
      message: "There are as many requests to sandboxes in flight as there may be",
      connectionLimit: limits.exchanges,
    },
  };
  return { kind: "refused", refusal: { ...inFlight[excess], sandboxId, retryAfterSeconds } };
}

/** No guest would answer before there is room on the host's disk again. */
function stalled(sandboxId: string): Admission {
  const message = "The sandbox stands still, because the disk of its host is full";
  return { kind: "refused", refusal: { status: 503, sandboxId, message, retryAfterSeconds } };
}

function wakeRefusalOf({ record }: EdgeSandbox, visitor: Visitor): Admission | undefined {
  const { sandboxId, port, headers, isProbe } = visitor;
  if (isProbe || !wakesOnTraffic(record)) {
    return notFound(sandboxId, "The sandbox was not found: it is paused", asleepPage);
  }
  const denial = wakeDenialOf(record, port, headers);
  return denial === undefined ? undefined : refused(403, sandboxId, denial);
}

/** E2B's clients look for "was not found" in the message; people get an explanation. */
const asleepPage: RefusalPage = {
  title: "This sandbox is asleep",
  advice:
    "Nothing is lost. Whoever it belongs to can wake it with `torpor resume`, or by connecting to it with " +
    "an E2B client; load this page again then. Made with autoResume, it is woken by its visitors.",
};
const notRunningPage: RefusalPage = {
  title: "This sandbox is not running",
  advice: "Whoever it belongs to sees why with `torpor info`.",
};

/** 502 and not 404: clients take a 404 for the guest's own answer. */
function notFound(sandboxId: string, message: string, page?: RefusalPage): Admission {
  return { kind: "refused", refusal: { status: 502, sandboxId, message, page } };
}

function refused(status: number, sandboxId: string, message: string): Admission {
  return { kind: "refused", refusal: { status, sandboxId, message } };
}

/** The answer for a failure on the way to the guest. */
export function refusalOf(
  cause: unknown,
  { sandboxId, port }: Pick<Visitor, "sandboxId" | "port">,
): Refusal {
  const { code, rawMessage } = TorporError.from(cause, "guest.unreachable");
  if (code === "argument.invalid") return { status: 400, sandboxId, message: rawMessage };
  if (code === "deadline.exceeded") {
    return { status: 409, sandboxId, message: "The sandbox is still being paused or woken" };
  }
  if (code === "guest.portClosed") {
    const message = `The sandbox is running but port ${port} is not open`;
    return { status: 502, sandboxId, message, port };
  }
  return { status: 502, sandboxId, message: rawMessage, port };
}
