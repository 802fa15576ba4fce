import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import type { ReadStream, WriteStream } from "node:tty";
import { test } from "node:test";
import { RawTerminal, terminalSize } from "./terminal.ts";

class FakeInput {
  readonly modes: boolean[] = [];

  setRawMode(mode: boolean): ReadStream {
    this.modes.push(mode);
    return this as unknown as ReadStream;
  }
}

class FakeScreen extends EventEmitter {
  columns = 100;
  rows = 30;
}

test("the terminal is raw while held, tells its size, and is restored once", () => {
  const input = new FakeInput();
  const screen = new FakeScreen();
  const sizes: unknown[] = [];
  const held = new RawTerminal(input, screen as unknown as WriteStream, (size) => sizes.push(size));
  assert.deepEqual(input.modes, [true]);
  screen.columns = 120;
  screen.emit("resize");
  held[Symbol.dispose]();
  held[Symbol.dispose]();
  screen.emit("resize");
  assert.deepEqual(input.modes, [true, false]);
  assert.deepEqual(sizes, [{ columns: 120, rows: 30 }]);
});

test("a terminal without a size gets the usual one", () => {
  assert.deepEqual(terminalSize({ columns: 0, rows: 0 }), { columns: 80, rows: 24 });
});
