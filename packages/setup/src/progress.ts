/**
 * The progress display of set-up: one line per step, with a bar while it runs and the time it took.
 *
 * On a terminal the line is redrawn in place. Elsewhere (a log, a CI run) every step is one plain
 * line when it ends, and a long one reports its state now and then. `NO_COLOR` drops the colours.
 * Steps run one after another; a failed one is marked and its error is passed to the caller.
 */
import { performance } from "node:perf_hooks";

/** A running step calls this: how much is done, from 0 to 1, and what it is doing. */
export type Report = (fraction: number, detail?: string) => void;

/** A report that is ignored. */
const ignoreReport: Report = () => undefined;

/** Shows the steps of a long operation. */
export interface Progress {
  /** Runs one step under its name and returns its result. */
  step<T>(name: string, work: (report: Report) => Promise<T>): Promise<T>;
  /** Shows a line of its own, above the running step. */
  note(text: string): void;
}

/** A display that shows nothing. */
export const silentProgress: Progress = {
  step: async (_name, work) => work(ignoreReport),
  note: () => undefined,
};

/** The part of a terminal or pipe that the display uses. */
export interface ProgressStream {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
}

/** The surroundings of a display; tests replace them. */
export interface ProgressOptions {
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly monoMs?: () => number;
}

const redrawMs = 100;
/** Quiet steps shorter than this leave only their final line in a log. */
const plainFirstMs = 2_000;
const plainEveryMs = 15_000;
const barCells = 20;
const nameCells = 22;
/** LIMIT: for a terminal that does not report its width. */
const columnsDefault = 80;
const spinner = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"] as const;

interface RunningStep {
  readonly name: string;
  readonly startedMonoMs: number;
  readonly timer: NodeJS.Timeout;
  fraction: number;
  detail: string;
  frame: number;
  plainDueMonoMs: number;
}

/** A display on a terminal, or in plain lines anywhere else. */
export class TerminalProgress implements Progress {
  readonly #stream: ProgressStream;
  readonly #monoMs: () => number;
  readonly #live: boolean;
  readonly #colour: boolean;
  #running: RunningStep | undefined;

  constructor(stream: ProgressStream, options: ProgressOptions = {}) {
    const env = options.env ?? process.env;
    this.#stream = stream;
    this.#monoMs = options.monoMs ?? (() => performance.now());
    this.#live = stream.isTTY === true && env["TERM"] !== "dumb";
    this.#colour = this.#live && !env["NO_COLOR"];
  }

  async step<T>(name: string, work: (report: Report) => Promise<T>): Promise<T> {
    const outer = this.#running;
    const startedMonoMs = this.#monoMs();
    const step: RunningStep = {
      name,
      startedMonoMs,
      timer: setInterval(() => this.#tick(step), redrawMs).unref(),
      fraction: 0,
      detail: "",
      frame: 0,
      plainDueMonoMs: startedMonoMs + plainFirstMs,
    };
    this.#running = step;
    this.#draw(step);
    try {
      const result = await work((fraction, detail) => {
        step.fraction = Math.min(1, Math.max(0, fraction));
        if (detail !== undefined) step.detail = detail;
      });
      this.#end(step, this.#paint(32, "✔"));
      return result;
    } catch (error) {
      this.#end(step, this.#paint(31, "✘"));
      throw error;
    } finally {
      this.#running = outer;
    }
  }

  note(text: string): void {
    this.#clear();
    this.#stream.write(`  ${text}\n`);
    if (this.#running !== undefined) this.#draw(this.#running);
  }

  #tick(step: RunningStep): void {
    if (this.#running !== step) return;
    step.frame += 1;
    this.#draw(step);
    if (this.#live || this.#monoMs() < step.plainDueMonoMs) return;
    step.plainDueMonoMs = this.#monoMs() + plainEveryMs;
    const detail = step.detail === "" ? "" : `  ${step.detail}`;
    this.#stream.write(`… ${step.name}  ${percent(step.fraction)}${detail}\n`);
  }

  #draw(step: RunningStep): void {
    if (!this.#live) return;
    // Some terminals report a width of 0.
    const columns = this.#stream.columns || columnsDefault;
    const filled = Math.round(step.fraction * barCells);
    const bar = "█".repeat(filled) + "░".repeat(barCells - filled);
    const took = formatMs(this.#monoMs() - step.startedMonoMs);
    const frame = spinner[step.frame % spinner.length] ?? spinner[0];
    const head = `${step.name.padEnd(nameCells)} ${bar} ${percent(step.fraction).padStart(4)}`;
    const line = `${head} ${took.padStart(8)}  ${step.detail}`.slice(0, Math.max(0, columns - 3));
    this.#stream.write(`\r\u001b[2K${this.#paint(36, frame)} ${line}`);
  }

  #end(step: RunningStep, mark: string): void {
    clearInterval(step.timer);
    this.#clear();
    const took = formatMs(this.#monoMs() - step.startedMonoMs);
    this.#stream.write(`${mark} ${step.name.padEnd(nameCells)} ${took.padStart(8)}\n`);
  }

  #clear(): void {
    if (this.#live) this.#stream.write("\r\u001b[2K");
  }

  #paint(code: number, text: string): string {
    return this.#colour ? `\u001b[${code}m${text}\u001b[0m` : text;
  }
}

/** "12.3 s", "2 min 05 s", "40 ms". */
export function formatMs(ms: number): string {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  const tenths = Math.round(ms / 100);
  if (tenths < 600) return `${(tenths / 10).toFixed(1)} s`;
  const seconds = Math.round(ms / 1_000);
  return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
}

function percent(fraction: number): string {
  return `${Math.floor(fraction * 100)}%`;
}
