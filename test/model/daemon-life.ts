/**
 * One life of a daemon, from its start to its stop or its death, and every point it passes.
 *
 * All that it does to the world outside goes through a gate: calls to the driver, the store, the database,
 * and the steps of its verbs. A mishap waits there for its moment. When the daemon dies, whoever is at a
 * gate, or comes to one, stays there: nothing is undone, nothing is told. What is under way between two
 * gates goes on to the next, as work that a dying process had handed to the kernel does.
 */
import { type Failpoint, TorporError, assertNever, ignoreFailure } from "@torpor/std";
import type { Gate } from "@torpor/testing";
import type { Mishap } from "./script.ts";

/** What a mishap needs of the world it happens in. */
export interface Victims {
  /** The guest writes, if it runs. @returns whether it did */
  scribble(mishap: Mishap): boolean;
  /** @returns whether there was one to die */
  killVm(): boolean;
}

/** What a full disk refuses: to write a record. */
const isRefusable = /^records\.save$/;
/** Calls whose answer cannot be lost alone: they are local, or tidy up after themselves. */
const unbreakableAfter = /^(records|snapshot records|templates)\.|^(restore|adopt|identity)$/;

export class DaemonLife {
  readonly #victims: Victims;
  readonly #grave = Promise.withResolvers<never>();
  readonly #died = Promise.withResolvers<void>();
  readonly #points: string[] = [];
  #mishap: Mishap | undefined;
  #hasMishapped = false;
  #isRefusing = false;
  #isDead = false;

  constructor(victims: Victims) {
    this.#victims = victims;
    void ignoreFailure("nobody waits in it", this.#grave.promise);
  }

  get isDead(): boolean {
    return this.#isDead;
  }

  /** Settles when it dies. */
  get died(): Promise<void> {
    return this.#died.promise;
  }

  /** Whether what was armed has happened. */
  get hasMishapped(): boolean {
    return this.#hasMishapped;
  }

  /** The points that were passed since a mishap was armed, for the report. */
  get points(): readonly string[] {
    return this.#points;
  }

  /** From now on it waits for its moment, in place of any other. */
  arm(mishap: Mishap | undefined): void {
    this.#points.length = 0;
    this.#hasMishapped = false;
    this.#isRefusing = false;
    this.#mishap = mishap;
  }

  /** What has not happened by now shall not happen to somebody else. */
  disarm(): void {
    this.#mishap = undefined;
    this.#isRefusing = false;
  }

  die(): void {
    this.#isDead = true;
    this.#died.resolve();
  }

  /** After the world is taken away: whoever stands at a gate goes home, and closes what it had open. */
  bury(): void {
    this.die();
    this.#grave.reject(new TorporError("canceled", "this daemon is long dead"));
  }

  readonly gate: Gate = async (name, call) => {
    await this.#pass("call", "before", name);
    const result = await call();
    await this.#pass("call", "after", name);
    return result;
  };

  readonly failpoint: Failpoint = async (step, moment) => await this.#pass("step", moment, step);

  async #pass(
    kind: "call" | "step",
    moment: "before" | "after",
    name: string,
  ): Promise<"repeat" | undefined> {
    if (this.#isDead) return await this.#grave.promise;
    const passed = this.#points.push(`${moment} ${kind} ${name}`);
    if (this.#isRefusing && moment === "before" && isRefusable.test(name)) throw refusal(name);
    const mishap = this.#mishap;
    if (mishap === undefined || passed <= mishap.at || !this.#fits(mishap, kind, moment, name)) {
      return undefined;
    }
    this.#mishap = undefined;
    this.#hasMishapped = true;
    this.#points.push(`*** ${mishap.kind} ***`);
    switch (mishap.kind) {
      case "crash":
      case "crash twice":
        this.die();
        return await this.#grave.promise;
      case "repeat":
        return "repeat";
      case "fail":
        throw new TorporError("internal", `failed on purpose ${moment} "${name}"`);
      case "break":
        throw new TorporError("storage.failed", `broken on purpose ${moment} ${name}`);
      case "refuse":
        this.#isRefusing = true;
        throw refusal(name);
      case "death":
      case "scribble":
        return undefined; // it has happened by now
      default:
        return assertNever(mishap.kind);
    }
  }

  #fits(mishap: Mishap, kind: "call" | "step", moment: "before" | "after", name: string): boolean {
    switch (mishap.kind) {
      case "crash":
      case "crash twice":
        return true;
      case "fail":
        return kind === "step";
      case "repeat":
        return kind === "step" && moment === "after";
      case "break":
        return kind === "call" && (moment === "before" || !unbreakableAfter.test(name));
      case "refuse":
        return moment === "before" && isRefusable.test(name);
      case "death":
        return this.#victims.killVm();
      case "scribble":
        return this.#victims.scribble(mishap);
      default:
        return assertNever(mishap.kind);
    }
  }
}

function refusal(name: string): TorporError {
  return new TorporError("storage.failed", `${name} is refused on purpose`);
}

/** `target`, whose asynchronous methods of these names pass the gate. */
export function gated<T extends object>(
  target: T,
  label: string,
  methods: readonly (keyof T & string)[],
  gate: Gate,
): T {
  return new Proxy(target, {
    get(_target, property) {
      const value: unknown = Reflect.get(target, property, target);
      if (typeof value !== "function") return value;
      const call = value.bind(target) as (...args: unknown[]) => unknown;
      if (!(methods as readonly (string | symbol)[]).includes(property)) return call;
      return (...args: unknown[]) => gate(`${label}.${String(property)}`, () => call(...args));
    },
  });
}
