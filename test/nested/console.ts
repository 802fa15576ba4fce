/**
 * What the console of the machine with KVM tells: how each VMM's run ended, with which counts, and how
 * each test did. The lines are those of the test command and of its reporter, which shows a test inside
 * another below the other's name.
 */
import { type VmmName, mark, vmms } from "./plan.ts";

export type Outcome = "passed" | "failed" | "not run";

export interface VmmResult {
  /** As the VMM says it: "Firecracker v1.16.1". */
  readonly version: string;
  passed: number;
  failed: number;
  skipped: number;
  /** By `parent › title`, or the title of a test without a parent. */
  readonly tests: Map<string, Outcome>;
  /** Undefined until its run has ended. */
  exitCode: number | undefined;
}

const signs: Readonly<Record<string, Outcome>> = { "✔": "passed", "✖": "failed", "﹣": "not run" };
const markLine = new RegExp(`^${mark} (begin|end) (\\S+) (.*)`);
const parentLine = /^▶ (.*)$/;
const testLine = /^( *)([✔✖﹣]) (.*) \([\d.]+ms\)/;
/** Begins the reporter's summary, which tells failures once more. */
const summaryLine = /^ℹ tests /;
const skippedLine = /^(\d+) skipped$/;
const countsLine = /^(\d+) passed, (\d+) failed$/;

export class ConsoleReader {
  readonly results = new Map<VmmName, VmmResult>();
  #current: VmmResult | undefined;
  #parent = "";
  #inSummary = false;

  read(line: string): void {
    const [, moment, name, rest = ""] = markLine.exec(line) ?? [];
    const vmm = vmms.find((one) => one === name);
    if (moment === "begin" && vmm !== undefined) this.#begin(vmm, rest);
    else if (moment === "end" && this.#current !== undefined) {
      this.#current.exitCode = Number(rest);
      this.#current = undefined;
    } else if (this.#current !== undefined) this.#readTestLine(line, this.#current);
  }

  #begin(vmm: VmmName, version: string): void {
    const counts = { passed: 0, failed: 0, skipped: 0, exitCode: undefined };
    const result: VmmResult = { version, ...counts, tests: new Map() };
    this.#current = result;
    this.#inSummary = false;
    this.results.set(vmm, result);
  }

  #readTestLine(line: string, result: VmmResult): void {
    const [, passed, failed] = countsLine.exec(line) ?? [];
    if (passed !== undefined) {
      result.passed = Number(passed);
      result.failed = Number(failed);
      return;
    }
    result.skipped = Number(skippedLine.exec(line)?.[1] ?? result.skipped);
    this.#inSummary ||= summaryLine.test(line);
    if (this.#inSummary) return;
    this.#parent = parentLine.exec(line)?.[1] ?? this.#parent;
    const [, indent = "", sign = "", title = ""] = testLine.exec(line) ?? [];
    const outcome = signs[sign];
    if (outcome === undefined) return;
    result.tests.set(indent === "" ? title : `${this.#parent} › ${title}`, outcome);
  }
}
