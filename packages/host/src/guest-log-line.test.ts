/** Lines of the consoles of guests, which may print anything. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseLogLine } from "./guest-log-line.ts";

const nowMs = Date.UTC(2026, 0, 2);
const before = "2026-01-01T00:00:00.000Z";

test("a line of the agent keeps its time, level and fields", () => {
  const said = { time: before, level: "warn", message: "woke", generation: 3, logger: "mine" };
  assert.deepEqual(parseLogLine(JSON.stringify(said), 0, nowMs), {
    atMs: Date.parse(before),
    level: "warn",
    message: "woke",
    fields: { generation: "3", logger: "agent" },
  });
});

test("any other line is the console's, without what terminals obey", () => {
  for (const line of ["[  1.5] \u001b[31mpanic\u001b[0m\r", "\u0007[  1.5] panic  "]) {
    assert.deepEqual(parseLogLine(line, 0, nowMs), {
      atMs: nowMs,
      level: "info",
      message: "[  1.5] panic",
      fields: { logger: "console" },
    });
  }
  for (const line of ["{", "{}", "[1]", '{"message":5}']) {
    assert.equal(parseLogLine(line, 0, nowMs)?.message, line);
  }
  for (const line of ["", "  ", "\r", "\u001b[2J"]) {
    assert.equal(parseLogLine(line, 0, nowMs), undefined);
  }
});

test("no line is newer than now or older than the one before", () => {
  const at = (time: unknown, afterMs: number): number | undefined =>
    parseLogLine(JSON.stringify({ message: "x", time }), afterMs, nowMs)?.atMs;
  assert.equal(at("2099-01-01T00:00:00Z", 0), nowMs);
  assert.equal(at(before, nowMs - 5), nowMs - 5);
  assert.equal(at("soon", 0), nowMs);
  assert.equal(at(7, 0), nowMs);
});
