/**
 * What the console of the machine with KVM tells: how each VMM's run ended, with which counts, and how
 * each test did. The lines are those of the test command and its reporter.
 */
import { type VmmName, mark, vmms } from "./plan.ts";

export type Outcome = "passed" | "failed" | "not run";

export interface VmmResult {
  passed: number;
  failed: number;
  skipped: number;
  /** By title, as far as titles are not told twice. */
  readonly tests: Map<string, Outcome>;
  /** Undefined until its run has ended. */
  exitCode: number | undefined;
}

const signs: Readonly<Record<string, Outcome>> = { "✔": "passed", "✖": "failed", "﹣": "not run" };

export class ConsoleReader {
  readonly results = new Map<VmmName, VmmResult>();
  #current: VmmResult | undefined;

  read(line: string): void {
    const [, moment, name, code] =
      new RegExp(`^${mark} (begin|end) (\\S+)(?: (\\d+))?`).exec(line) ?? [];
    const vmm = vmms.find((one) => one === name);
    if (moment === "begin" && vmm !== undefined) {
      const result = { passed: 0, failed: 0, skipped: 0, tests: new Map(), exitCode: undefined };
      this.#current = result;
      this.results.set(vmm, result);
    } else if (moment === "end" && this.#current !== undefined) {
      this.#current.exitCode = Number(code);
      this.#current = undefined;
    } else if (this.#current !== undefined) readTestLine(line, this.#current);
  }
}

function readTestLine(line: string, result: VmmResult): void {
  const [, passed, failed] = /^(\d+) passed, (\d+) failed$/.exec(line) ?? [];
  if (passed !== undefined) {
    result.passed = Number(passed);
    result.failed = Number(failed);
    return;
  }
  const skipped = /^(\d+) skipped$/.exec(line)?.[1];
  if (skipped !== undefined) result.skipped = Number(skipped);
  const [, sign = "", title = ""] = /^ *([✔✖﹣]) (.*?) \([\d.]+ms\)/.exec(line) ?? [];
  const outcome = signs[sign];
  // Failures are told once more at the end.
  if (outcome !== undefined && result.tests.get(title) !== "failed") {
    result.tests.set(title, outcome);
  }
}
