/**
 * Measures how far a guest's wall clock is off. Each question bounds the error by its own round
 * trip, the shortest most tightly; together they leave a range that a clock which was never set
 * cannot be in.
 */
import assert from "node:assert/strict";
import type { TestSandbox } from "./test-sandbox.ts";
import { Witness } from "./witness.ts";

/**
 * Questions that usually narrow the range to what is promised; many more if it is still too wide to
 * decide.
 */
const questionsWanted = 30;
const questionsMax = 300;
/** The promised accuracy. */
const toleranceMs = 50;
/** How long a guest sleeps before its clock is checked. */
export const stillMs = 2_000;

/**
 * Asserts that the clock is right in a sandbox with a witness, which slept for `stillMs` before it
 * woke.
 */
export async function assertRightClock(sandbox: TestSandbox): Promise<void> {
  let leastMs = -Infinity;
  let mostMs = Infinity;
  const isVague = (): boolean => mostMs - leastMs >= stillMs - toleranceMs;
  for (let asked = 0; asked < questionsMax; asked += 1) {
    if (mostMs - leastMs <= toleranceMs || (asked >= questionsWanted && !isVague())) break;
    const { timeMs, hostBeforeMs, hostAfterMs } = await Witness.ask(sandbox);
    leastMs = Math.max(leastMs, timeMs - hostAfterMs);
    mostMs = Math.min(mostMs, timeMs - hostBeforeMs);
  }
  const range = `it is off by ${leastMs.toFixed(1)} to ${mostMs.toFixed(1)} ms`;
  assert.ok(mostMs >= -toleranceMs, `the clock is behind: ${range}`);
  assert.ok(leastMs <= toleranceMs, `the clock is ahead: ${range}`);
  assert.ok(!isVague(), `${range}: too vague to tell`);
}
