import assert from "node:assert/strict";
import { test } from "node:test";
import { PassageBudget } from "./passage-budget.ts";

/** The number of connections that a sandbox gets if it takes all it can. */
function takeAll(budget: PassageBudget): number {
  let held = 0;
  for (; budget.allows(held); held += 1) budget.take();
  return held;
}

test("one sandbox gets no more than its limit, however many are free", () => {
  assert.equal(takeAll(new PassageBudget(1_000_000)), 512);
});

test("sandboxes that take all they can leave others some, each time", () => {
  const budget = new PassageBudget(2_500);
  const held = Array.from({ length: 16 }, () => takeAll(budget));
  assert.equal(held[0], 500);
  assert.ok(held.every((count) => count >= 16));
  assert.ok(held.reduce((sum, count) => sum + count, 0) < 2_500);
});

test("what is given back is free again, and no more is given than there is", () => {
  const budget = new PassageBudget(20);
  assert.equal(takeAll(budget), 16);
  assert.equal(takeAll(budget), 4);
  assert.equal(takeAll(budget), 0);
  budget.giveBack();
  assert.equal(takeAll(budget), 1);
});
