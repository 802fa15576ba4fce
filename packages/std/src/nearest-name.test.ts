import assert from "node:assert/strict";
import { test } from "node:test";
import { countEdits, nearestName, nearestNames } from "./nearest-name.ts";

test("edits are counted, both ways alike", () => {
  const cases: readonly (readonly [string, string, number])[] = [
    ["", "", 0],
    ["", "abc", 3],
    ["abc", "", 3],
    ["kitten", "sitting", 3],
    ["flaw", "lawn", 2],
    ["ab", "ba", 1],
    ["port", "prot", 1],
    ["abcd", "badc", 2],
    ["😀b", "😀c", 1],
  ];
  for (const [from, to, edits] of cases) {
    assert.equal(countEdits(from, to), edits, `${from} ${to}`);
    assert.equal(countEdits(to, from), edits, `${to} ${from}`);
  }
});

test("the nearest name is the one that was meant, and none is better than a wrong one", () => {
  const names = ["base", "ready", "ready-2", "python"];
  assert.equal(nearestName("bsae", names), "base");
  assert.equal(nearestName("bas", names), "base");
  assert.equal(nearestName("raedy", names), "ready");
  assert.deepEqual(nearestNames("read", names), ["ready", "ready-2"]);
  assert.equal(nearestName("something", names), undefined);
  assert.equal(nearestName("x", []), undefined);
  assert.equal(nearestName("", names), undefined);
});
