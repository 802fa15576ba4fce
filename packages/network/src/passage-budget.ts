/**
 * How many guest connections to the outside the daemon carries. Each takes two of its descriptors,
 * which all sandboxes share. So the fewer are free, the fewer a single sandbox may hold, and a
 * sandbox that holds only a few gets another as long as any is free.
 */
import { descriptorsMax } from "@torpor/native";

/** LIMIT: connections of one sandbox when many are free (`perSandboxMax`) and when few are. */
const perSandboxMax = 512;
const fewPerSandbox = 16;
/** The share of the free connections that one sandbox may hold. */
const shareOfFree = 1 / 4;
/**
 * Uses a quarter of all descriptors; the others are for incoming connections and for the daemon
 * itself.
 */
const passagesPerDescriptor = 1 / 8;

/** Counts the connections carried, and decides whether a sandbox may open one more. */
export class PassageBudget {
  readonly #max: number;
  #count = 0;

  /** @param max Connections of all sandboxes together. */
  constructor(max: number) {
    this.#max = max;
  }

  /**
   * Whether a sandbox may open one more connection.
   * @param held Connections that this sandbox holds now.
   */
  allows(held: number): boolean {
    const free = this.#max - this.#count;
    const share = Math.max(fewPerSandbox, Math.floor(free * shareOfFree));
    return free > 0 && held < Math.min(perSandboxMax, share);
  }

  /** Counts a connection as opened. */
  take(): void {
    this.#count += 1;
  }

  /** Counts a connection as closed. */
  giveBack(): void {
    this.#count -= 1;
  }
}

/** The budget of this process: descriptors are counted per process, so the budget is too. */
export const processBudget = new PassageBudget(
  Math.floor(descriptorsMax() * passagesPerDescriptor),
);
