import assert from "node:assert/strict";
import { test } from "node:test";
import { planShortening } from "./shorten.ts";

test("a VM that stands upon what its record names stays as it is", () => {
  assert.equal(planShortening(["a", "b", "top"], ["a", "b", "top"]), undefined);
});

test("what was folded goes below the first layer that was not", () => {
  assert.deepEqual(planShortening(["a", "b", "c", "d", "top"], ["a", "fold", "d", "top"]), {
    above: "d",
    below: ["a", "fold"],
    replaced: ["b", "c"],
  });
  assert.deepEqual(planShortening(["a", "top"], ["fold", "top"]), {
    above: "top",
    below: ["fold"],
    replaced: ["a"],
  });
});

test("an attempt that was cut short, and a fold of what came of it, are made up for", () => {
  // The record lists first the layers that the attempt may have opened, then all that were open.
  assert.deepEqual(planShortening(["fold", "a", "b", "top"], ["fold", "top"]), {
    above: "top",
    below: ["fold"],
    replaced: ["a", "b"],
  });
  assert.deepEqual(planShortening(["fold", "a", "b", "c", "top"], ["fold2", "top"]), {
    above: "top",
    below: ["fold2"],
    replaced: ["fold", "a", "b", "c"],
  });
});
