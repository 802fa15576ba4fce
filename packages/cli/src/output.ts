/**
 * The only place that writes to the terminal.
 *
 * Output for scripts goes to standard output; everything for people (notes, progress, failures)
 * goes to standard error, so that `torpor create` can be used in `$(…)`. A failure says what
 * happened, then whether it may have taken effect, then what to do next.
 */
import type { Effect, TorporError } from "@torpor/std";

/** The part of a terminal or pipe that the output uses. */
export interface TextStream {
  write(text: string | Uint8Array): boolean;
  once(event: "drain" | "error", listener: () => void): unknown;
  readonly writableLength: number;
  readonly isTTY?: boolean;
}

/** A wait shorter than this shows nothing. */
const quietMs = 1_000;
const redrawMs = 100;
const frames = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"] as const;
const eraseLine = "\r\u001b[2K";

const green = 32;
const red = 31;
const bold = 1;

/** Writes answers, notes and failures of one command line. */
export class Output {
  readonly #stdout: TextStream;
  readonly #stderr: TextStream;
  readonly #env: NodeJS.ProcessEnv;
  #onReaderGone: (() => void) | undefined;

  constructor(stdout: TextStream, stderr: TextStream, env: NodeJS.ProcessEnv = process.env) {
    this.#stdout = stdout;
    this.#stderr = stderr;
    this.#env = env;
  }

  /** Until disposed, `listener` is called when the reader of the output is gone. */
  watchReader(listener: () => void): Disposable {
    this.#onReaderGone = listener;
    return { [Symbol.dispose]: () => (this.#onReaderGone = undefined) };
  }

  /** Calls the listener. @returns false when there is none, so that the program may end at once. */
  readerIsGone(): boolean {
    this.#onReaderGone?.();
    return this.#onReaderGone !== undefined;
  }

  /** Writes lines of the answer to standard output. */
  print(text: string): void {
    this.#stdout.write(`${text}\n`);
  }

  /** Writes the answer as one JSON document. */
  printJson(value: unknown): void {
    this.print(JSON.stringify(value, undefined, 2));
  }

  /** Writes columns as wide as their widest cell. */
  printTable(head: readonly string[], rows: readonly (readonly string[])[]): void {
    for (const line of tableLines([head, ...rows])) this.print(line);
  }

  /** Once this returns, the listener of `watchReader` knows of output that could not be written. */
  async settled(): Promise<void> {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }

  /** Writes lines for the person watching to standard error. */
  note(text: string): void {
    this.#stderr.write(`${text}\n`);
  }

  noteTable(rows: readonly (readonly string[])[]): void {
    for (const line of tableLines(rows)) this.note(line);
  }

  /**
   * Writes bytes of a command to standard output; waits while the reader is slower than the
   * command.
   */
  async writeOut(bytes: Uint8Array): Promise<void> {
    await writeAll(this.#stdout, bytes);
  }

  async writeError(bytes: Uint8Array): Promise<void> {
    await writeAll(this.#stderr, bytes);
  }

  /** Writes a failure for a person, or for a script when it asked for JSON. */
  fail(error: TorporError, asJson: boolean): void {
    if (asJson) {
      this.note(JSON.stringify(error.toBody()));
      return;
    }
    for (const line of failureLines(error)) {
      this.note(line.startsWith("error:") ? this.#paint(this.#stderr, red, line) : line);
    }
  }

  /** Shows that work is under way once it takes long; on a terminal only. */
  async busy<T>(text: string, work: Promise<T>): Promise<T> {
    if (this.#stderr.isTTY !== true || this.#env["TERM"] === "dumb") return await work;
    const startedMonoMs = performance.now();
    let frame = 0;
    let shown = false;
    const timer = setInterval(() => {
      const tookMs = performance.now() - startedMonoMs;
      if (tookMs < quietMs) return;
      shown = true;
      frame = (frame + 1) % frames.length;
      const seconds = `${Math.floor(tookMs / 1_000)} s`;
      this.#stderr.write(`${eraseLine}${frames[frame] ?? ""} ${text} ${seconds}`);
    }, redrawMs);
    try {
      return await work;
    } finally {
      clearInterval(timer);
      if (shown) this.#stderr.write(eraseLine);
    }
  }

  /** A tick or a cross, in colour where the terminal has any. */
  mark(good: boolean): string {
    return good ? this.#paint(this.#stdout, green, "✔") : this.#paint(this.#stdout, red, "✘");
  }

  heading(text: string): string {
    return this.#paint(this.#stdout, bold, text);
  }

  #paint(stream: TextStream, colour: number, text: string): string {
    const plain = stream.isTTY !== true || this.#env["TERM"] === "dumb" || this.#env["NO_COLOR"];
    return plain ? text : `\u001b[${colour}m${text}\u001b[0m`;
  }
}

const effectLines: Readonly<Record<Effect, readonly string[]>> = {
  none: [],
  maybe: ["  effect: it may have taken effect"],
  done: ["  effect: it has taken effect"],
};

/** The printed lines of a failure. */
export function failureLines(error: TorporError): readonly string[] {
  return [`error: ${error.rawMessage}`, ...effectLines[error.effect], `  next: ${error.advice}`];
}

async function writeAll(stream: TextStream, bytes: Uint8Array): Promise<void> {
  if (stream.write(bytes) || stream.writableLength === 0) return;
  await new Promise<void>((resolve) => {
    stream.once("drain", resolve);
    // `readerIsGone` handles a reader that went away; nothing may wait for it here.
    stream.once("error", resolve);
  });
}

function tableLines(rows: readonly (readonly string[])[]): readonly string[] {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [column, cell] of row.entries()) {
      widths[column] = Math.max(widths[column] ?? 0, cell.length);
    }
  }
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}

/** Formats a duration: "40 ms", "12.3 s", "2 min 05 s", "3 h 07 min", "2 d". */
export function shownDuration(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1_000);
  if (seconds < 3_600) return shownParts(seconds, 60, "min", "s");
  const minutes = Math.round(seconds / 60);
  if (minutes < 1_440) return shownParts(minutes, 60, "h", "min");
  return shownParts(Math.round(minutes / 60), 24, "d", "h");
}

function shownParts(count: number, perLarge: number, large: string, small: string): string {
  const shown = `${Math.floor(count / perLarge)} ${large}`;
  const rest = count % perLarge;
  return rest === 0 ? shown : `${shown} ${String(rest).padStart(2, "0")} ${small}`;
}

/** Formats pairs: "a=1 b=2". */
export function shownPairs(pairs: Readonly<Record<string, string>>): string {
  return Object.entries(pairs)
    .map(([key, value]) => `${key}=${value}`)
    .join(" ");
}

/** Formats a size: "512 B", "3.4 MiB". */
export function shownBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB"] as const;
  let amount = bytes;
  let unit = 0;
  while (amount >= 1_024 && unit < units.length - 1) {
    amount /= 1_024;
    unit += 1;
  }
  return `${unit === 0 ? amount : amount.toFixed(1)} ${units[unit] ?? "B"}`;
}

/** Formats how long ago something was, for a column: "3s", "5m", "2h", "4d". */
export function shownAge(fromMs: number, nowMs: number): string {
  const seconds = Math.max(0, Math.floor((nowMs - fromMs) / 1_000));
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)}h`;
  return `${Math.floor(seconds / 86_400)}d`;
}
