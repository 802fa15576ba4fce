import assert from "node:assert/strict";
import { test } from "node:test";
import { ConsoleReader } from "./console.ts";

test("the console tells counts, and of each test under which other it is", () => {
  const reader = new ConsoleReader();
  for (const line of [
    "torpor-nested: begin qemu QEMU 10.0",
    "▶ the fake",
    "  ✔ wakes (12.5ms)",
    "✔ the fake (13ms)",
    "▶ the real one",
    "  ✖ wakes (1200.25ms)",
    "✖ the real one (1201ms)",
    "﹣ another (0.1ms) # not run: there is none",
    "ℹ tests 4",
    "✖ failing tests:",
    "✖ wakes (1200.25ms)",
    "1 skipped",
    "2 passed, 1 failed",
    "torpor-nested: end qemu 1",
    "✔ of nobody (1ms)",
  ]) {
    reader.read(line);
  }
  assert.deepEqual([...reader.results.keys()], ["qemu"]);
  assert.deepEqual(reader.results.get("qemu"), {
    version: "QEMU 10.0",
    ...{ passed: 2, failed: 1, skipped: 1, exitCode: 1 },
    tests: new Map([
      ["the fake › wakes", "passed"],
      ["the fake", "passed"],
      ["the real one › wakes", "failed"],
      ["the real one", "failed"],
      ["another", "not run"],
    ]),
  });
});

test("a run that was cut short has no exit code", () => {
  const reader = new ConsoleReader();
  reader.read("torpor-nested: begin firecracker Firecracker v1");
  reader.read("✔ one (1ms)");
  assert.equal(reader.results.get("firecracker")?.exitCode, undefined);
});
