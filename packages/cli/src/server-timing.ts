/** How long each step of a verb took in the daemon, from its `Server-Timing` header. */
import type { StepTiming } from "@torpor/std";

/** Parses `save-memory;dur=12.3, total;dur=20`, in order; leaves out entries without a number. */
export function parseServerTiming(header: string | undefined): readonly StepTiming[] {
  if (header === undefined) return [];
  return header.split(",").flatMap((entry) => {
    const [name = "", ...parameters] = entry.split(";").map((part) => part.trim());
    const tookMs = Number(parameters.find((part) => part.startsWith("dur="))?.slice(4));
    if (name === "" || !Number.isFinite(tookMs)) return [];
    return [{ step: name.replaceAll("-", " "), tookMs }];
  });
}

/** Makes rows for a table; the sum comes last, as the daemon sends it. */
export function timingRows(timings: readonly StepTiming[]): readonly (readonly string[])[] {
  return timings.map(({ step, tookMs }) => [`  ${step}`, `${tookMs.toFixed(1)} ms`.padStart(12)]);
}
