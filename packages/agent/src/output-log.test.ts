import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { LogBudget } from "./log-budget.ts";
import { type OutputKind, OutputLog } from "./output-log.ts";

const roomy = 1 << 20;

function pipesLog(bytesMax = roomy, budget = new LogBudget(roomy)): OutputLog {
  return new OutputLog(["stdout", "stderr"], bytesMax, budget);
}

/** What is held from these offsets on, as text with the name of each stream. */
function since(log: OutputLog, stdout: number, stderr: number): string {
  const offsets = new Map<OutputKind, number>([
    ["stdout", stdout],
    ["stderr", stderr],
  ]);
  const pieces = log.since(offsets);
  return pieces.map(({ kind, bytes }) => `${kind}:${Buffer.from(bytes).toString()}`).join(" ");
}

function isOutOfRange(error: unknown): boolean {
  return ConnectError.from(error).code === Code.OutOfRange;
}

test("What was missed comes in the order it was printed, from the byte that was asked for", () => {
  const log = pipesLog();
  log.append("stdout", Buffer.from("abc"));
  log.append("stderr", Buffer.from("xyz"));
  log.append("stdout", Buffer.from("def"));
  assert.equal(since(log, 0, 0), "stdout:abc stderr:xyz stdout:def");
  assert.equal(since(log, 2, 3), "stdout:c stdout:def");
  assert.equal(since(log, 3, 1), "stderr:yz stdout:def");
  assert.equal(since(log, 6, 3), "");
  assert.deepEqual(
    [...log.ends],
    [
      ["stdout", 6],
      ["stderr", 3],
    ],
  );
});

test("An offset that lies ahead, or whose bytes are gone, is refused and never skipped", () => {
  const log = pipesLog(4096 + 128);
  assert.throws(() => since(log, 1, 0), isOutOfRange);
  log.append("stdout", Buffer.alloc(4096, "a"));
  assert.equal(since(log, 4095, 0), "stdout:a");
  log.append("stdout", Buffer.from("b"));
  assert.throws(() => since(log, 4095, 0), isOutOfRange);
  assert.equal(since(log, 4096, 0), "stdout:b");
});

test("A stream that was left alone keeps its place when the other one is forgotten", () => {
  const log = pipesLog(8192);
  log.append("stderr", Buffer.from("early"));
  for (let count = 0; count < 4; count += 1) log.append("stdout", Buffer.alloc(4096, "a"));
  assert.throws(() => since(log, 16_384, 0), isOutOfRange);
  assert.equal(since(log, 16_384, 5), "");
});

test("Many small pieces take little more than their bytes", () => {
  const log = pipesLog();
  for (let count = 0; count < 100_000; count += 1) log.append("stdout", Buffer.from("a"));
  assert.ok(log.heldBytes < 110_000, String(log.heldBytes));
  assert.equal(since(log, 99_999, 0), "stdout:a");
});

test("Logs that together hold too much cost the largest one first", () => {
  const budget = new LogBudget(64 << 10);
  const small = pipesLog(roomy, budget);
  small.append("stdout", Buffer.from("kept"));
  const large = pipesLog(roomy, budget);
  for (let count = 0; count < 1000; count += 1) large.append("stdout", Buffer.alloc(4096, "a"));
  assert.ok(large.heldBytes + small.heldBytes <= 64 << 10);
  assert.equal(since(small, 0, 0), "stdout:kept");
  large.clear();
  assert.equal(large.heldBytes, 0);
  assert.throws(() => since(large, 0, 0), isOutOfRange);
});
