import assert from "node:assert/strict";
import { test } from "node:test";
import { shownEnd, shownEndShort } from "./lifetime-text.ts";

const nowMs = Date.UTC(2030, 0);
const none = { onTimeout: "kill", endAtMs: null, leftMs: null } as const;

test("the end of a sandbox that runs is told with its time and what happens then", () => {
  const ending = { ...none, onTimeout: "pause", endAtMs: nowMs + 90_000 } as const;
  assert.equal(
    shownEnd(ending, nowMs),
    "2030-01-01T00:01:30.000Z (in 1 min 30 s), then it is put to sleep",
  );
  assert.equal(shownEndShort(ending, nowMs), "1m pause");
});

test("one that should have ended is overdue", () => {
  const ending = { ...none, endAtMs: nowMs - 1 };
  assert.equal(shownEnd(ending, nowMs), "2029-12-31T23:59:59.999Z (overdue), then it is removed");
  assert.equal(shownEndShort(ending, nowMs), "overdue kill");
});

test("while it sleeps the rest of its time is told; without a timeout there is no end", () => {
  const ending = { ...none, leftMs: 7_200_000 };
  assert.equal(shownEnd(ending, nowMs), "after 2 h more of running, then it is removed");
  assert.equal(shownEndShort(ending, nowMs), "2h left");
  assert.equal(shownEnd(none, nowMs), "never");
  assert.equal(shownEndShort(none, nowMs), "-");
});
