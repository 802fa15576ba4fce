/** Words for how long a sandbox still lives. */
import type { OnTimeout, SandboxInfo } from "./daemon-answers.ts";
import { shownAge, shownDuration } from "./output.ts";

const endings: Readonly<Record<OnTimeout, string>> = {
  kill: "is removed",
  pause: "is put to sleep",
};

type Ending = Pick<SandboxInfo, "onTimeout" | "endAtMs" | "leftMs">;

/** When the timeout passes, and what happens then. */
export function shownEnd({ onTimeout, endAtMs, leftMs }: Ending, nowMs: number): string {
  const then = `then it ${endings[onTimeout]}`;
  if (endAtMs !== null) {
    const inMs = endAtMs - nowMs;
    const when = inMs < 0 ? "overdue" : `in ${shownDuration(inMs)}`;
    return `${new Date(endAtMs).toISOString()} (${when}), ${then}`;
  }
  if (leftMs !== null) return `after ${shownDuration(leftMs)} more of running, ${then}`;
  return "never";
}

/** The same, short, for a column: "4m kill"; "4m left" for a sandbox that does not run. */
export function shownEndShort(sandbox: Ending, nowMs: number): string {
  const { onTimeout, endAtMs, leftMs } = sandbox;
  if (endAtMs !== null) {
    return endAtMs < nowMs ? `overdue ${onTimeout}` : `${shownAge(nowMs, endAtMs)} ${onTimeout}`;
  }
  return leftMs === null ? "-" : `${shownAge(0, leftMs)} left`;
}
