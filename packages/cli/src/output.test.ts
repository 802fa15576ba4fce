import assert from "node:assert/strict";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import { MemoryStream } from "./fixtures.ts";
import { Output, failureLines, shownAge, shownBytes, shownDuration } from "./output.ts";

test("a failure says what happened and what to do next", () => {
  const error = new TorporError("sandbox.notFound", "there is no sandbox iabc");
  assert.deepEqual(failureLines(error), [
    "error: there is no sandbox iabc",
    "  next: List the sandboxes with `torpor ls`.",
  ]);
});

test("the effect is told only when there may be one", () => {
  const of = (effect: "none" | "maybe" | "done"): string | undefined =>
    failureLines(new TorporError("internal", "x", { effect })).find((line) => /effect/.test(line));
  assert.equal(of("none"), undefined);
  assert.equal(of("maybe"), "  effect: it may have taken effect");
  assert.equal(of("done"), "  effect: it has taken effect");
});

test("for a script a failure is one line of JSON on standard error", () => {
  const stdout = new MemoryStream();
  const stderr = new MemoryStream();
  const error = new TorporError("sandbox.notFound", "gone");
  new Output(stdout, stderr, {}).fail(error, true);
  assert.equal(stdout.text, "");
  assert.deepEqual(JSON.parse(stderr.text), { ...error.toBody() });
});

test("colour is for terminals that want it", () => {
  const painted = (isTTY: boolean, env: NodeJS.ProcessEnv): string =>
    new Output(new MemoryStream(isTTY), new MemoryStream(), env).mark(true);
  assert.equal(painted(true, {}), "\u001b[32m✔\u001b[0m");
  assert.equal(painted(true, { NO_COLOR: "1" }), "✔");
  assert.equal(painted(true, { TERM: "dumb" }), "✔");
  assert.equal(painted(false, {}), "✔");
});

test("a wait shows nothing outside a terminal and passes its result on", async () => {
  const stderr = new MemoryStream();
  const output = new Output(new MemoryStream(), stderr, {});
  assert.equal(await output.busy("waiting", Promise.resolve(7)), 7);
  assert.equal(stderr.text, "");
});

test("columns line up and lines have no spaces at their end", () => {
  const stdout = new MemoryStream();
  new Output(stdout, new MemoryStream(), {}).printTable(
    ["ID", "STATE"],
    [
      ["iabc", "running"],
      ["i", ""],
    ],
  );
  assert.equal(stdout.text, "ID    STATE\niabc  running\ni\n");
});

test("durations, sizes and ages", () => {
  assert.deepEqual([40, 12_300, 125_000].map(shownDuration), ["40 ms", "12.3 s", "2 min 05 s"]);
  assert.deepEqual([3_599_600, 11_220_000, 86_399_000, 176_400_000].map(shownDuration), [
    "1 h",
    "3 h 07 min",
    "1 d",
    "2 d 01 h",
  ]);
  assert.deepEqual([0, 1_536, 3 << 20].map(shownBytes), ["0 B", "1.5 KiB", "3.0 MiB"]);
  const ages = [0, 90, 7_200, 200_000].map((seconds) => shownAge(0, seconds * 1_000));
  assert.deepEqual(ages, ["0s", "1m", "2h", "2d"]);
});
