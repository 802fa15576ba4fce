import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { TorporError } from "@torpor/std";
import { WakeQueue } from "./wake-queue.ts";

const patient = { atOnce: 2, turnMsMax: 60_000, waitMsMax: 60_000 };

/**
 * Requests slots one after the other; `had` lists the requests that got one, `turns` has the slots.
 */
function queue(
  turns: WakeQueue,
  count: number,
): { had: number[]; turns: Disposable[]; asked: Promise<void>[] } {
  const had: number[] = [];
  const taken: Disposable[] = [];
  const asked = Array.from({ length: count }, async (_, index) => {
    taken[index] = await turns.take();
    had.push(index);
  });
  return { had, turns: taken, asked };
}

test("so many have a turn at once, and the others in the order they came", async () => {
  const { had, turns, asked } = queue(new WakeQueue(patient), 5);
  await setImmediate();
  assert.deepEqual(had, [0, 1]);
  turns[1]?.[Symbol.dispose]();
  await setImmediate();
  assert.deepEqual(had, [0, 1, 2]);
  for (const index of [0, 2, 3, 4]) {
    turns[index]?.[Symbol.dispose]();
    await setImmediate();
  }
  await Promise.all(asked);
  assert.deepEqual(had, [0, 1, 2, 3, 4]);
});

test("a turn that is ended twice lets one in", async () => {
  const all = new WakeQueue(patient);
  const { had, turns } = queue(all, 4);
  await setImmediate();
  turns[0]?.[Symbol.dispose]();
  turns[0]?.[Symbol.dispose]();
  await setImmediate();
  assert.deepEqual(had, [0, 1, 2]);
  for (let index = 1; index < 4; index += 1) {
    turns[index]?.[Symbol.dispose]();
    await setImmediate();
  }
  assert.deepEqual(had, [0, 1, 2, 3]);
});

test("who takes long holds nobody up", async () => {
  const { had, turns, asked } = queue(new WakeQueue({ ...patient, turnMsMax: 30 }), 4);
  await setImmediate();
  assert.deepEqual(had, [0, 1]);
  await Promise.all(asked);
  turns[0]?.[Symbol.dispose]();
  assert.deepEqual(had, [0, 1, 2, 3]);
});

test("who waits too long is refused, and does not take the turn of another", async () => {
  const all = new WakeQueue({ ...patient, waitMsMax: 30 });
  const { had, turns, asked } = queue(all, 3);
  const isBusy = (error: unknown): boolean =>
    TorporError.is(error) && error.code === "host.busy" && error.status === 429;
  await assert.rejects(asked[2] ?? Promise.resolve(), isBusy);
  turns[0]?.[Symbol.dispose]();
  using next = await all.take();
  assert.ok(next !== undefined);
  assert.deepEqual(had, [0, 1]);
  turns[1]?.[Symbol.dispose]();
});
