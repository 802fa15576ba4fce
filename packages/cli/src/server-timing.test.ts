import assert from "node:assert/strict";
import { test } from "node:test";
import { parseServerTiming, timingRows } from "./server-timing.ts";

test("Server-Timing entries become steps, in order", () => {
  assert.deepEqual(parseServerTiming("check;dur=1.2, save-memory;dur=34, total;dur=35.2"), [
    { step: "check", tookMs: 1.2 },
    { step: "save memory", tookMs: 34 },
    { step: "total", tookMs: 35.2 },
  ]);
});

test("entries without a name or number are left out", () => {
  assert.deepEqual(parseServerTiming("cache, ;dur=1, miss;dur=x"), []);
  assert.deepEqual(parseServerTiming(""), []);
  assert.deepEqual(parseServerTiming(undefined), []);
});

test("other parameters of an entry do no harm", () => {
  assert.deepEqual(parseServerTiming('db;desc="a b";dur=5'), [{ step: "db", tookMs: 5 }]);
});

test("times stand under each other", () => {
  assert.deepEqual(timingRows([{ step: "check", tookMs: 1.25 }]), [["  check", "      1.3 ms"]]);
});
