import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { Interrupt, caughtSignals } from "./interrupt.ts";

function fixture(): {
  source: EventEmitter;
  exits: number[];
  interrupt: Interrupt;
  at: (ms: number) => void;
} {
  const source = new EventEmitter();
  const exits: number[] = [];
  let nowMs = 0;
  const interrupt = new Interrupt({
    source,
    monoMs: () => nowMs,
    exit: (code) => void exits.push(code),
    onForced: () => void exits.push(0),
  });
  return { source, exits, interrupt, at: (ms) => (nowMs = ms) };
}

test("the first press aborts, with the exit code of a shell", () => {
  const { source, interrupt, exits } = fixture();
  assert.equal(interrupt.happened, false);
  source.emit("SIGTERM");
  assert.equal(interrupt.signal.aborted, true);
  assert.equal(interrupt.exitCode, 143);
  assert.deepEqual(exits, []);
});

test("the echo of a press is not a second one; a later press ends the program", async () => {
  const { source, exits, at } = fixture();
  source.emit("SIGINT");
  at(10);
  source.emit("SIGINT");
  await turn();
  assert.deepEqual(exits, []);
  at(900);
  source.emit("SIGINT");
  await turn();
  assert.deepEqual(exits, [0, 130]);
});

test("a reader that went away counts as an interrupt, and the first press after it does not force", async () => {
  const { source, interrupt, exits } = fixture();
  interrupt.readerGone();
  assert.equal(interrupt.exitCode, 141);
  source.emit("SIGINT");
  await turn();
  assert.deepEqual(exits, []);
});

test("nothing is listened to afterwards, and disposing twice is fine", () => {
  const { source, interrupt } = fixture();
  interrupt[Symbol.dispose]();
  interrupt[Symbol.dispose]();
  for (const name of caughtSignals) assert.equal(source.listenerCount(name), 0, name);
});

test("work that is raced is left alone at the interrupt, and canceled before it begins", async () => {
  const { source, interrupt } = fixture();
  assert.equal(await interrupt.race(Promise.resolve(1)), 1);
  const late = interrupt.race(new Promise(() => undefined));
  source.emit("SIGQUIT");
  await assert.rejects(late, { code: "canceled" });
  await assert.rejects(interrupt.race(Promise.resolve(1)), { code: "canceled" });
});

test("a second press does not wait for a last request that never ends", async () => {
  const ended = Promise.withResolvers<number>();
  const source = new EventEmitter();
  let nowMs = 0;
  using interrupt = new Interrupt({
    source,
    monoMs: () => nowMs,
    exit: ended.resolve,
    onForced: () => new Promise(() => undefined),
  });
  source.emit("SIGHUP");
  nowMs = 900;
  source.emit("SIGHUP");
  assert.equal(await ended.promise, 129);
  assert.equal(interrupt.exitCode, 129);
});
