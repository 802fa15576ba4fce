/**
 * Makes one step of the next operation fail, before or after it has done its work, and records the
 * steps there are, so that a test of each of them never forgets a new one.
 */
import { type Failpoint, TorporError } from "@torpor/std";

/** A point at which an operation can fail. */
export interface FailingStep {
  readonly moment: "before" | "after";
  readonly step: string;
}

/** Owns the `Failpoint` of a daemon, and lets a test choose where it fails or repeats a step. */
export class Failpoints {
  #armed: FailingStep | undefined;
  #repeated: string | undefined;
  readonly #seen: FailingStep[] = [];

  /** Makes the step fail once; after that it succeeds. */
  failOnce(moment: FailingStep["moment"], step: string): void {
    this.#armed = { moment, step };
  }

  /** Makes the step run twice the next time an operation comes to it. */
  repeatOnce(step: string): void {
    this.#repeated = step;
  }

  /** Whether a failure is still to come: true after an operation that never reached the step. */
  get isArmed(): boolean {
    return this.#armed !== undefined || this.#repeated !== undefined;
  }

  /** Runs `work`. @returns every point it passed, in order */
  async record(work: () => Promise<unknown>): Promise<readonly FailingStep[]> {
    const from = this.#seen.length;
    await work();
    return this.#seen.slice(from);
  }

  readonly failpoint: Failpoint = (step, moment) => {
    this.#seen.push({ moment, step });
    if (moment === "after" && this.#repeated === step) {
      this.#repeated = undefined;
      return "repeat";
    }
    if (this.#armed?.step !== step || this.#armed.moment !== moment) return undefined;
    this.#armed = undefined;
    throw new TorporError("internal", `failed on purpose ${moment} "${step}"`);
  };
}
