/** Waiting for a state, and the failures that tests expect. */
import assert from "node:assert/strict";
import { Deadline, type Effect, type ErrorCode, TorporError } from "@torpor/std";

const pollMs = 20;
const waitMs = 30_000;

/**
 * Asks repeatedly until `look` returns something, and returns that. The deadline only limits how
 * long a broken test takes: on a slow machine the wait is longer, and the result the same.
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

/**
 * For `assert.rejects`: accepts a `TorporError` with this code, and with this effect when one is
 * given.
 */
export function failsWith(code: ErrorCode, effect?: Effect): (error: unknown) => boolean {
  return (error) => {
    assert.ok(TorporError.is(error), `not a TorporError: ${String(error)}`);
    assert.equal(error.code, code, error.message);
    if (effect !== undefined) assert.equal(error.effect, effect, error.message);
    return true;
  };
}
