/** What happened in one turn, as far as it matters for what may have come of it. */
import assert from "node:assert/strict";
import { TorporError } from "@torpor/std";
import type { Answer, Happening } from "./model.ts";
import type { Mishap, Operation } from "./script.ts";

/** An operation under way, and what it was told. */
export interface Ongoing {
  readonly operation: Operation;
  /** The sandbox it is for, and what it goes through. */
  readonly id: string | undefined;
  readonly happening: Happening | undefined;
  /** The snapshot it is about. */
  readonly snapshotId: string | undefined;
  readonly promise: Promise<Answer>;
  /** New sandboxes that were promised. */
  readonly made: readonly string[];
  answer: Answer;
}

export interface Played {
  readonly ongoing: readonly Ongoing[];
  /** What befell sandboxes beside their operations, by id. */
  readonly befell: ReadonlyMap<string, Happening>;
  /** What went wrong, and may make anything fail. */
  readonly wrong: Mishap["kind"] | undefined;
  /** Whether another daemon serves after it. */
  readonly isReopened: boolean;
  /** Whether the machine was off meanwhile. */
  readonly wasOff: boolean;
}

const refusals: ReadonlySet<string> = new Set([
  "sandbox.notFound",
  "sandbox.stale",
  "sandbox.wrongState",
  "template.missing",
]);

export async function answerOf(work: Promise<unknown>): Promise<Answer> {
  try {
    await work;
    return "done";
  } catch (cause) {
    if (cause instanceof assert.AssertionError) throw cause;
    if (!TorporError.is(cause)) return "failed: maybe";
    return refusals.has(cause.code) ? `refused: ${cause.code}` : `failed: ${cause.effect}`;
  }
}
