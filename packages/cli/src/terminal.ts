/**
 * Our terminal as the screen of a remote one: keys go through unread while this is held, and the
 * terminal is as before afterwards, however the program ends.
 */
import type { ReadStream, WriteStream } from "node:tty";
import type { TerminalSize } from "./guest-process.ts";
import { usageError } from "./usage.ts";

const fallbackSize: TerminalSize = { columns: 80, rows: 24 };

/** @throws usage error when input or output is no terminal */
export function requireTerminal(input: NodeJS.ReadStream, output: NodeJS.WriteStream): void {
  if (input.isTTY && output.isTTY) return;
  throw usageError(
    "-t needs a terminal, and standard input or output is none",
    "Leave out -t; use -i to pass on standard input.",
  );
}

export function terminalSize(output: Pick<WriteStream, "columns" | "rows">): TerminalSize {
  const { columns, rows } = output;
  // A terminal that was never told its size says 0.
  return columns > 0 && rows > 0 ? { columns, rows } : fallbackSize;
}

export class RawTerminal implements Disposable {
  readonly #undo = new DisposableStack();

  constructor(
    input: Pick<ReadStream, "setRawMode">,
    output: Pick<WriteStream, "columns" | "rows" | "on" | "off">,
    onResize: (size: TerminalSize) => void,
  ) {
    const restore = (): void => void input.setRawMode(false);
    input.setRawMode(true);
    // Also when the program ends without unwinding: a raw terminal is of no use to anybody.
    process.once("exit", restore);
    this.#undo.defer(() => {
      process.off("exit", restore);
      restore();
    });
    const resized = (): void => onResize(terminalSize(output));
    output.on("resize", resized);
    this.#undo.defer(() => void output.off("resize", resized));
  }

  [Symbol.dispose](): void {
    this.#undo.dispose();
  }
}
