import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { jsonLogger } from "@torpor/std";
import type { Sandboxes } from "./sandboxes.ts";
import { type OnStop, stopOnSignal } from "./stop.ts";

interface Stop {
  readonly process: EventEmitter;
  readonly lines: readonly { readonly message: string; readonly ids?: readonly string[] }[];
  readonly stopped: Promise<void>;
}

/** @param pauseAll Returns the ids of the sandboxes that are still running afterwards. */
function start(
  onStop: OnStop,
  pauseAll: (signal: AbortSignal | undefined) => Promise<readonly string[]>,
): Stop {
  const process = new EventEmitter();
  const lines: Stop["lines"][number][] = [];
  let running: readonly string[] = ["iaaa", "ibbb"];
  const sandboxes = {
    all: () => ["iaaa", "ibbb"].map((id) => ({ record: { id }, run: runOf(running, id) })),
    pauseAll: async (signal?: AbortSignal) => {
      running = await pauseAll(signal);
    },
  } as unknown as Pick<Sandboxes, "all" | "pauseAll">;
  const log = jsonLogger((line) => lines.push(JSON.parse(line) as Stop["lines"][number]));
  let signals = 0;
  const onSignal = (): void => {
    signals += 1;
  };
  const stopped = stopOnSignal({ sandboxes, onStop, log, onSignal, source: process });
  return { process, lines, stopped: stopped.then(() => assert.equal(signals, 1)) };
}

function runOf(running: readonly string[], id: string): object | undefined {
  return running.includes(id) ? {} : undefined;
}

test("by default sandboxes are left, and a second signal is not held back", async () => {
  const stop = start("leave", () => assert.fail("nothing is paused"));
  stop.process.emit("SIGTERM");
  await stop.stopped;
  assert.match(stop.lines[0]?.message ?? "", /the VMs go on running/);
  assert.equal(stop.process.listenerCount("SIGTERM"), 0);
});

test("those that could not be paused are named", async () => {
  const stop = start("pause", () => Promise.resolve(["ibbb"]));
  stop.process.emit("SIGINT");
  await stop.stopped;
  assert.deepEqual(stop.lines.at(-1)?.ids, ["ibbb"]);
});

test("a second signal leaves what has not been begun with", async () => {
  const stop = start("pause", async (signal) => {
    const aborted = new Promise((resolve) => signal?.addEventListener("abort", resolve));
    stop.process.emit("SIGTERM");
    await aborted;
    return ["iaaa", "ibbb"];
  });
  stop.process.emit("SIGINT");
  await stop.stopped;
  assert.deepEqual(stop.lines.at(-1)?.ids, ["iaaa", "ibbb"]);
});
