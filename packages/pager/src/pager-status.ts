/** What a pager tells of itself: how far it is, in numbers that only grow, but for what the guest gives back. */
import {
  parseBoolean,
  parseInteger,
  parseJson,
  parseObject,
  parseOneOf,
  parseString,
} from "@torpor/std";
import type { PrefetchPhase } from "./prefetch.ts";

const states = ["listening", "serving"] as const;
const phases = ["workingSet", "newestLayer", "rest", "done"] as const satisfies PrefetchPhase[];

export interface PagerStatus {
  /** `listening`: the VMM has not said yet where its memory is. */
  readonly state: (typeof states)[number];
  readonly pid: number;
  /** 0 while none is known. */
  readonly vmPid: number;
  /** Of the guest: all, and those that are in their place. */
  readonly memoryPages: number;
  readonly presentPages: number;
  /** Times that the guest waited for a page. */
  readonly faults: number;
  /** Put in their place, asked for or not: with content, and as zeros, which take no memory. */
  readonly copiedPages: number;
  readonly zeroPages: number;
  /** That the guest gave back. */
  readonly removedPages: number;
  /** Times that the kernel asked for another try. */
  readonly retries: number;
  readonly prefetchPhase: PrefetchPhase;
  readonly prefetchedPages: number;
  /** Of the record that this wake began with. */
  readonly workingSetPages: number;
  /** Whether it is looked at which pages the guest touches. */
  readonly isRecording: boolean;
  /** Of the record that this wake wrote; -1 before, or when it could not be written. */
  readonly recordedPages: number;
  /** What is amiss and does no harm, such as a damaged record; empty as a rule. */
  readonly remark: string;
}

/** @throws argument.invalid */
export function parseStatus(line: string): PagerStatus {
  const status = parseObject(parseJson(line, "the pager's status"), "the pager's status");
  const number = (name: string, min = 0): number =>
    parseInteger(status[name], name, min, Number.MAX_SAFE_INTEGER);
  return {
    state: parseOneOf(status["state"], "state", states),
    pid: number("pid"),
    vmPid: number("vmPid"),
    memoryPages: number("memoryPages"),
    presentPages: number("presentPages"),
    faults: number("faults"),
    copiedPages: number("copiedPages"),
    zeroPages: number("zeroPages"),
    removedPages: number("removedPages"),
    retries: number("retries"),
    prefetchPhase: parseOneOf(status["prefetchPhase"], "prefetchPhase", phases),
    prefetchedPages: number("prefetchedPages"),
    workingSetPages: number("workingSetPages"),
    isRecording: parseBoolean(status["isRecording"], "isRecording"),
    recordedPages: number("recordedPages", -1),
    remark: parseString(status["remark"], "remark"),
  };
}
