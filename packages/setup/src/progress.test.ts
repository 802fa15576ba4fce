import assert from "node:assert/strict";
import { test } from "node:test";
import { TerminalProgress, formatMs } from "./progress.ts";

function capture(isTTY: boolean): {
  text: () => string;
  write: (text: string) => void;
  isTTY: boolean;
  columns: number;
} {
  let text = "";
  return { text: () => text, write: (more) => void (text += more), isTTY, columns: 60 };
}

test("TerminalProgress prints one plain line a step when it is not a terminal", async () => {
  const stream = capture(false);
  let now = 0;
  const progress = new TerminalProgress(stream, { env: {}, monoMs: () => now });
  const result = await progress.step("Debian packages", async (report) => {
    report(0.4, "qemu-system-x86");
    now = 12_340;
    return 7;
  });
  assert.equal(result, 7);
  assert.equal(stream.text(), "✔ Debian packages          12.3 s\n");
});

test("TerminalProgress marks a failed step and passes the error on", async () => {
  const stream = capture(false);
  const progress = new TerminalProgress(stream, { env: {}, monoMs: () => 0 });
  const failure = new RangeError("no");
  await assert.rejects(
    progress.step("Guest kernel", async () => {
      throw failure;
    }),
    failure,
  );
  assert.match(stream.text(), /^✘ Guest kernel/);
});

test("TerminalProgress draws in place on a terminal and stays within its width", async () => {
  const stream = capture(true);
  const progress = new TerminalProgress(stream, { env: { NO_COLOR: "1" }, monoMs: () => 0 });
  await progress.step("Base disk", async (report) => {
    report(0.5, "x".repeat(200));
    progress.note("a line of its own");
  });
  const frames = stream.text().split("\r\u001b[2K");
  assert.ok(frames.some((frame) => frame.includes("██████████░░░░░░░░░░  50%")));
  assert.ok(frames.every((frame) => frame.trimEnd().length < 60));
  assert.ok(stream.text().includes("  a line of its own\n"));
  assert.match(stream.text(), /✔ Base disk +0 ms\n$/);
});

test("TerminalProgress uses colours on a terminal unless NO_COLOR is set", async () => {
  const plain = capture(true);
  await new TerminalProgress(plain, { env: { NO_COLOR: "1" } }).step("a", async () => undefined);
  assert.ok(!plain.text().includes("\u001b[32m"));
  const coloured = capture(true);
  await new TerminalProgress(coloured, { env: {} }).step("a", async () => undefined);
  assert.ok(coloured.text().includes("\u001b[32m✔"));
});

test("formatMs() picks a unit a person would", () => {
  assert.deepEqual([40, 999, 1_000, 12_340, 59_940, 59_960, 125_000].map(formatMs), [
    "40 ms",
    "999 ms",
    "1.0 s",
    "12.3 s",
    "59.9 s",
    "1 min 00 s",
    "2 min 05 s",
  ]);
});
