import assert from "node:assert/strict";
import { test } from "node:test";
import { Deadline, readBudgetFactor } from "./deadline.ts";

const never = new Promise<never>(() => undefined);

test("a deadline that ended a wait has passed, however early its timer fired", async () => {
  for (let round = 0; round < 300; round += 1) {
    const deadline = Deadline.after(1 + Math.random() * 3, "the wait");
    await assert.rejects(deadline.race(never), { code: "deadline.exceeded" });
    assert.ok(deadline.expired);
  }
});

test("a deadline whose signal aborted has passed", async () => {
  for (let round = 0; round < 300; round += 1) {
    const deadline = Deadline.after(1 + Math.random() * 3, "the wait");
    await new Promise((resolve) => deadline.signal.addEventListener("abort", resolve));
    assert.ok(deadline.expired);
  }
});

test("a part of a deadline ends with the whole", async () => {
  const whole = Deadline.after(1, "the whole");
  await assert.rejects(whole.sub(60_000, "the part").race(never), /the part took too long/);
  assert.ok(whole.sub(60_000, "the part").remainingMs() <= 1);
});

test("work that is done in time, or fails by itself, is not the deadline's matter", async () => {
  const deadline = Deadline.after(60_000, "the wait");
  assert.equal(await deadline.race(Promise.resolve(1)), 1);
  await assert.rejects(deadline.race(Promise.reject(new Error("its own"))), /its own/);
  assert.equal(deadline.expired, false);
});

test("budgets are multiplied by a number from 1 to 100, and by nothing else", () => {
  assert.equal(readBudgetFactor(undefined), 1);
  assert.equal(readBudgetFactor("2.5"), 2.5);
  for (const text of ["", "0.5", "101", "six", "Infinity"]) {
    assert.throws(() => readBudgetFactor(text), { code: "argument.invalid" });
  }
});
