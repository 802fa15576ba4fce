import assert from "node:assert/strict";
import { test } from "node:test";
import { begin, extend, isEndless, newLifetime, nextDue, rest, setTimeoutMs } from "./lifetime.ts";

const startMs = 1_000_000;

test("a sandbox without rules is never due", () => {
  assert.equal(nextDue(begin(newLifetime({}), startMs), startMs, startMs), undefined);
});

test("a timeout counts from the start, and ends as was asked", () => {
  for (const onTimeout of ["kill", "pause"] as const) {
    const lifetime = begin(newLifetime({ timeoutMs: 5_000, onTimeout }), startMs);
    assert.deepEqual(nextDue(lifetime, startMs, startMs), {
      action: onTimeout,
      rule: "timeout",
      atMs: startMs + 5_000,
    });
  }
});

test("time on disk does not count", () => {
  const first = begin(newLifetime({ timeoutMs: 60_000, maxRunMs: 100_000 }), startMs);
  const asleep = rest(first, startMs, startMs + 20_000);
  assert.equal(nextDue(asleep, startMs, startMs)?.rule, "maximum running time");
  assert.equal(asleep.leftMs, 40_000);
  const wokenMs = startMs + 1_000_000_000;
  const second = begin(asleep, wokenMs);
  assert.equal(nextDue(second, wokenMs, wokenMs)?.atMs, wokenMs + 40_000);
  const late = setTimeoutMs(second, null, wokenMs, wokenMs);
  assert.deepEqual(nextDue(late, wokenMs, wokenMs), {
    action: "kill",
    rule: "maximum running time",
    atMs: wokenMs + 80_000,
  });
});

test("a sandbox that was paused at the end of its timeout can be used after its resume", () => {
  const lifetime = begin(newLifetime({ timeoutMs: 5_000, onTimeout: "pause" }), startMs);
  const asleep = rest(lifetime, startMs, startMs + 5_010);
  const due = nextDue(begin(asleep, startMs), startMs, startMs);
  assert.ok(due !== undefined && due.atMs > startMs);
});

test("an idle timeout counts from the last use and pauses", () => {
  const lifetime = begin(newLifetime({ idleTimeoutMs: 3_000 }), startMs);
  assert.deepEqual(nextDue(lifetime, startMs, startMs + 7_000), {
    action: "pause",
    rule: "idle timeout",
    atMs: startMs + 10_000,
  });
});

test("the earliest rule decides", () => {
  const request = { timeoutMs: 5_000, idleTimeoutMs: 4_000, maxRunMs: 9_000 };
  const lifetime = begin(newLifetime(request), startMs);
  assert.equal(nextDue(lifetime, startMs, startMs)?.rule, "idle timeout");
  assert.equal(nextDue(lifetime, startMs, startMs + 4_500)?.rule, "timeout");
});

test("setting a timeout replaces it, while running and while asleep", () => {
  const running = begin(newLifetime({ timeoutMs: 50_000 }), startMs);
  const shorter = setTimeoutMs(running, 1_000, startMs, startMs + 10_000);
  assert.equal(nextDue(shorter, startMs, startMs)?.atMs, startMs + 11_000);
  assert.equal(nextDue(setTimeoutMs(running, null, startMs, startMs), startMs, startMs), undefined);
  const asleep = setTimeoutMs(rest(running, startMs, startMs), 7_000, undefined, startMs);
  assert.equal(begin(asleep, startMs).endAtMs, startMs + 7_000);
});

test("extending gives time and never takes any", () => {
  const running = begin(newLifetime({ timeoutMs: 50_000 }), startMs);
  assert.equal(extend(running, 10_000, startMs).endAtMs, startMs + 50_000);
  assert.equal(extend(running, 70_000, startMs).endAtMs, startMs + 70_000);
  assert.ok(isEndless(extend(running, null, startMs)));
  const endless = begin(newLifetime({}), startMs);
  assert.equal(extend(endless, 70_000, startMs).endAtMs, null);
});
