/** Durations as people type them: `90`, `90s`, `5m`, `2h`, `1d`, and `never`. */
import { usageError } from "./usage.ts";

const unitMs: Readonly<Record<string, number>> = {
  "": 1_000,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};
/** LIMIT: the daemon's; a longer time is "never". */
const daysMax = 3_650;

/**
 * A time in ms. "never" is a word, because the parser of the command line takes null for no value.
 */
export type Duration = number | "never";

/** Parses the text of an option. @throws usage error */
export function parseDuration(text: string): Duration {
  if (text === "never") return text;
  const [, digits = "", unit = ""] = /^(\d{1,9})([smhd]?)$/.exec(text) ?? [];
  const ms = Number(digits) * (unitMs[unit] ?? 0);
  if (digits === "") {
    throw usageError(`"${text}" is no duration`, "Write 90s, 5m, 2h, 1d or never.");
  }
  // Elsewhere 0 means "without a limit", so it must not mean "at once" here.
  if (ms === 0) throw usageError("0 is no duration", "Write `never` for no limit.");
  if (ms > daysMax * 86_400_000) {
    throw usageError(`${text} is more than ${daysMax} days`, "Write `never` for no limit.");
  }
  return ms;
}

/** Converts to the daemon's form: null for never. */
export function toMs(duration: Duration): number | null;
export function toMs(duration: Duration | undefined): number | null | undefined;
export function toMs(duration: Duration | undefined): number | null | undefined {
  return duration === "never" ? null : duration;
}
