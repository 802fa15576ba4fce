/**
 * How many connections of guests to the outside the daemon carries. Each takes two of its descriptors, which
 * all sandboxes share; so the fewer are free, the fewer a single one may hold, and who holds a few gets
 * one as long as there is any.
 */
import { descriptorsMax } from "@torpor/native";

/** LIMITS of one sandbox, where many are free and where few are. */
const perSandboxMax = 512;
const fewPerSandbox = 16;
/** Of what is free, for one sandbox. */
const shareOfFree = 1 / 4;
/** A quarter of all descriptors; the rest is for what comes in, and for the daemon itself. */
const passagesPerDescriptor = 1 / 8;

export class PassageBudget {
  readonly #max: number;
  #count = 0;

  constructor(max: number) {
    this.#max = max;
  }

  /** @param held By the sandbox that asks for one more. */
  allows(held: number): boolean {
    const free = this.#max - this.#count;
    const share = Math.max(fewPerSandbox, Math.floor(free * shareOfFree));
    return free > 0 && held < Math.min(perSandboxMax, share);
  }

  take(): void {
    this.#count += 1;
  }

  giveBack(): void {
    this.#count -= 1;
  }
}

/** Descriptors are the process's, and so is this. */
export const processBudget = new PassageBudget(
  Math.floor(descriptorsMax() * passagesPerDescriptor),
);
