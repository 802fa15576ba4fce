/**
 * A pager's report on its progress, in numbers that only grow, except for memory that the guest
 * gives back.
 */
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

/** The status that a pager sends to the daemon. */
export interface PagerStatus {
  /** `listening`: the VMM has not yet described its memory. */
  readonly state: (typeof states)[number];
  readonly pid: number;
  /** 0 while no VM has connected. */
  readonly vmPid: number;
  /** All pages of the guest; `presentPages` counts those that are present. */
  readonly memoryPages: number;
  readonly presentPages: number;
  /** How often the guest waited for a page. */
  readonly faults: number;
  /**
   * Pages installed, on a fault or ahead of it, with content; `zeroPages` counts those of zeros,
   * which take no memory.
   */
  readonly copiedPages: number;
  readonly zeroPages: number;
  /** Pages that the guest gave back. */
  readonly removedPages: number;
  /** How often the kernel asked for another try. */
  readonly retries: number;
  readonly prefetchPhase: PrefetchPhase;
  readonly prefetchedPages: number;
  /** Pages in the working set with which this wake began. */
  readonly workingSetPages: number;
  /** Whether the pages that the guest touches are being recorded. */
  readonly isRecording: boolean;
  /**
   * Pages in the working set that this wake recorded; -1 before that, or if it could not be
   * written.
   */
  readonly recordedPages: number;
  /** A problem that does no harm, such as a damaged working set; usually empty. */
  readonly remark: string;
}

/** Parses one line from a pager. @throws argument.invalid */
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
