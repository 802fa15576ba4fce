/**
 * Parses one line of a guest's console as a log entry. Pure; the guest is hostile and its clock may
 * lie.
 */
import { type JsonObject, parseJson, parseObject, shownValue } from "@torpor/std";

/** Log levels, least severe first. */
export const logLevels = ["debug", "info", "warn", "error"] as const;
/** The severity of a log entry. */
export type LogLevel = (typeof logLevels)[number];

/** One line of a guest's console. */
export interface LogEntry {
  readonly atMs: number;
  readonly level: LogLevel;
  readonly message: string;
  /** `logger` is `agent` or `console`; the other fields are what the agent adds to its message. */
  readonly fields: Readonly<Record<string, string>>;
}

/** Control characters and escape sequences, which terminals obey and readers do not want. */
const escapes = new RegExp(
  // oxlint-disable-next-line no-control-regex
  "\\u001b\\[[0-9;?]*[ -/]*[@-~]|[\\u0000-\\u0008\\u000b-\\u001f\\u007f]",
  "g",
);

/**
 * Parses a line; returns undefined for an empty one.
 * @param afterMs Time of the entry before: no entry is older.
 * @param nowMs No entry is newer.
 */
export function parseLogLine(line: string, afterMs: number, nowMs: number): LogEntry | undefined {
  const plain = line.replaceAll(escapes, "").trimEnd();
  if (plain === "") return undefined;
  const said = parseAgentLine(plain);
  if (said === undefined) {
    const level = plain.includes("torpor-init: failed") ? "warn" : "info";
    return { atMs: nowMs, level, message: plain, fields: { logger: "console" } };
  }
  const { time, level, message, ...rest } = said;
  const saidMs = typeof time === "string" ? Date.parse(time) : Number.NaN;
  const atMs = Number.isNaN(saidMs) ? nowMs : Math.min(nowMs, Math.max(afterMs, saidMs));
  return {
    atMs,
    level: logLevels.find((one) => one === level) ?? "info",
    message: shownValue(message),
    fields: { ...Object.fromEntries(Object.entries(rest).map(toField)), logger: "agent" },
  };
}

function parseAgentLine(text: string): JsonObject | undefined {
  if (!text.startsWith("{")) return undefined;
  try {
    const said = parseObject(parseJson(text, "line"), "line");
    return typeof said["message"] === "string" ? said : undefined;
  } catch {
    return undefined; // a truncated line, or not the agent's
  }
}

function toField([key, value]: [string, unknown]): [string, string] {
  return [key, shownValue(value)];
}
