import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as yieldToOthers } from "node:timers/promises";
import { runLanes } from "./lanes.ts";

test("each item is one lane's, and lanes work side by side", async () => {
  const done: number[] = [];
  let now = 0;
  let most = 0;
  await runLanes(3, Array.from({ length: 20 }).keys(), async (items) => {
    for (const item of items) {
      most = Math.max(most, (now += 1));
      await yieldToOthers();
      done.push(item);
      now -= 1;
    }
  });
  assert.deepEqual(
    done.toSorted((a, b) => a - b),
    [...Array.from({ length: 20 }).keys()],
  );
  assert.equal(most, 3);
});

test("a failure stops the other lanes, and is told when they have stopped", async () => {
  const begun: number[] = [];
  const ended: number[] = [];
  const running = runLanes(2, Array.from({ length: 20 }).keys(), async (items) => {
    for (const item of items) {
      begun.push(item);
      await yieldToOthers();
      if (item === 0) throw new Error("the first is bad");
      for (let turn = 0; turn < 5; turn += 1) await yieldToOthers();
      ended.push(item);
    }
  });
  await assert.rejects(running, /the first is bad/);
  assert.deepEqual(begun, [0, 1]);
  assert.deepEqual(ended, [1]);
});
