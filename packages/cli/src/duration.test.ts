import assert from "node:assert/strict";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import { parseDuration, toMs } from "./duration.ts";
import { isUsageError } from "./usage.ts";

test("a duration is a number with a unit, seconds without one", () => {
  const texts = ["90", "90s", "5m", "2h", "1d", "never", "3650d", "007s"];
  assert.deepEqual(texts.map(parseDuration), [
    90_000,
    90_000,
    300_000,
    7_200_000,
    86_400_000,
    "never",
    315_360_000_000,
    7_000,
  ]);
});

test("anything else is a mistake in the command line", () => {
  const texts = [
    "",
    "0",
    "0h",
    "-5",
    "+5",
    "1.5h",
    "5 m",
    "5M",
    "m",
    "1h30m",
    "1e3",
    "3651d",
    "Never",
  ];
  for (const text of [...texts, "99999999999999s"]) {
    assert.throws(
      () => parseDuration(text),
      (error) => TorporError.is(error) && isUsageError(error),
      text,
    );
  }
});

test("never is told apart from nothing said", () => {
  assert.deepEqual([toMs("never"), toMs(undefined), toMs(5)], [null, undefined, 5]);
});
