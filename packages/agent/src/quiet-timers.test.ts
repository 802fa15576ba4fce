import assert from "node:assert/strict";
import { test } from "node:test";
import { QuietTimers } from "./quiet-timers.ts";

async function sleep(ms: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, ms));
}

test("no timer fires while suspended, and each goes on with what it had left", async () => {
  const timers = new QuietTimers();
  const fired: string[] = [];
  timers.after(1, () => fired.push("early"));
  timers.suspend();
  timers.after(0, () => fired.push("made while suspended"));
  await sleep(30);
  assert.deepEqual(fired, []);
  timers.resume();
  await sleep(30);
  assert.deepEqual(new Set(fired), new Set(["early", "made while suspended"]));
});

test("a cancelled timer never fires, a restarted one once more", async () => {
  const timers = new QuietTimers();
  let count = 0;
  timers.after(0, () => (count += 100)).cancel();
  const timer = timers.after(0, () => (count += 1));
  await sleep(20);
  assert.equal(count, 1);
  timer.restart();
  timers.suspend();
  timers.resume();
  await sleep(20);
  assert.equal(count, 2);
});

test("a delay longer than setTimeout can wait does not fire at once", async () => {
  const timers = new QuietTimers();
  let fired = false;
  const timer = timers.after(2 ** 33, () => (fired = true));
  await sleep(20);
  assert.equal(fired, false);
  timer.cancel();
});
