/** What tests wait for and which failures they expect. */
import assert from "node:assert/strict";
import { Deadline, type Effect, type ErrorCode, TorporError } from "@torpor/std";

const pollMs = 20;
const waitMs = 30_000;

/**
 * Asks again and again until `look` returns something, and returns that. The wait decides nothing
 * but how long a broken test takes: a slow machine only asks more often.
 */
export async function waitUntil<T>(what: string, look: () => Promise<T | undefined>): Promise<T> {
  const deadline = Deadline.after(waitMs, `waiting until ${what}`);
  for (;;) {
    const found = await deadline.race(look());
    if (found !== undefined) return found;
    deadline.check();
    await deadline.sleep(pollMs);
  }
}

/** For `assert.rejects`: a `TorporError` with this code, and this effect when one is named. */
export function failsWith(code: ErrorCode, effect?: Effect): (error: unknown) => boolean {
  return (error) => {
    assert.ok(TorporError.is(error), `not a TorporError: ${String(error)}`);
    assert.equal(error.code, code, error.message);
    if (effect !== undefined) assert.equal(error.effect, effect, error.message);
    return true;
  };
}
