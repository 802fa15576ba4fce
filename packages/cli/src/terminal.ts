/**
 * Makes our terminal the screen of a remote one: while this is held, keys are passed through
 * unread; afterwards the terminal is restored, however the program ends.
 */
import type { ReadStream, WriteStream } from "node:tty";
import type { TerminalSize } from "./guest-process.ts";
import { usageError } from "./usage.ts";

const fallbackSize: TerminalSize = { columns: 80, rows: 24 };

/** Checks that both are terminals. @throws usage error when input or output is no terminal */
export function requireTerminal(input: NodeJS.ReadStream, output: NodeJS.WriteStream): void {
  if (input.isTTY && output.isTTY) return;
  throw usageError(
    "-t needs a terminal, and standard input or output is none",
    "Leave out -t; use -i to pass on standard input.",
  );
}

/** The size of a terminal, or a usual size when it does not know. */
export function terminalSize(output: Pick<WriteStream, "columns" | "rows">): TerminalSize {
  const { columns, rows } = output;
  // A terminal whose size was never set reports 0.
  return columns > 0 && rows > 0 ? { columns, rows } : fallbackSize;
}

/** Puts our terminal into raw mode until disposed, and reports changes of its size. */
export class RawTerminal implements Disposable {
  readonly #undo = new DisposableStack();

  constructor(
    input: Pick<ReadStream, "setRawMode">,
    output: Pick<WriteStream, "columns" | "rows" | "on" | "off">,
    onResize: (size: TerminalSize) => void,
  ) {
    const restore = (): void => void input.setRawMode(false);
    input.setRawMode(true);
    // Also when the program ends without unwinding: nobody can use a raw terminal.
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
