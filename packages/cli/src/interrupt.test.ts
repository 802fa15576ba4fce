import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import { test } from "node:test";
import { Interrupt } from "./interrupt.ts";

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

test("the echo of a press is not a second one; a later press ends the program", () => {
  const { source, exits, at } = fixture();
  source.emit("SIGINT");
  at(10);
  source.emit("SIGINT");
  assert.deepEqual(exits, []);
  at(900);
  source.emit("SIGINT");
  assert.deepEqual(exits, [0, 130]);
});

test("a reader that went away counts as an interrupt, and the first press after it does not force", () => {
  const { source, interrupt, exits } = fixture();
  interrupt.readerGone();
  assert.equal(interrupt.exitCode, 141);
  source.emit("SIGINT");
  assert.deepEqual(exits, []);
});

test("nothing is listened to afterwards, and disposing twice is fine", () => {
  const { source, interrupt } = fixture();
  interrupt[Symbol.dispose]();
  interrupt[Symbol.dispose]();
  assert.equal(source.listenerCount("SIGINT"), 0);
});
