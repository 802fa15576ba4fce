/** The daemon's log file: its lines as people read them, the last error in it, and following it. */
import { open, stat } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { TorporError, parseJson, parseObject, systemCode, shownValue } from "@torpor/std";

const pollMs = 200;
/** LIMIT: how much of the log's end is read. */
const tailBytesMax = 256 << 10;
const readBytesMax = 64 << 10;
const rawLinesShown = 8;

/** Where the log ends now; 0 when it does not exist yet. */
export async function logSize(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if (systemCode(error) === "ENOENT") return 0;
    throw error;
  }
}

/** Reads the complete text from `offset` on, or its last part if it is long. */
export async function readLogFrom(path: string, offset: number): Promise<string> {
  const size = await logSize(path);
  const from = Math.max(offset, size - tailBytesMax);
  if (from >= size) return "";
  await using handle = await open(path, "r");
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(size - from), 0, size - from, from);
  return buffer.toString("utf8", 0, bytesRead);
}

/**
 * Finds why the daemon that wrote `log` ended: its last line of level "error", or the last raw
 * lines when it died before it could log.
 */
export function errorFromLog(log: string): TorporError | undefined {
  const lines = log.split("\n").filter((line) => line.trim() !== "");
  const entry = lines.map(parseEntry).findLast((one) => one?.["level"] === "error");
  if (entry !== undefined) {
    const { code, message, advice } = entry;
    return TorporError.fromBody({
      error_code: code,
      message: shownValue(message),
      effect: "none",
      advice,
    });
  }
  const raw = lines.filter((line) => parseEntry(line) === undefined).slice(-rawLinesShown);
  if (raw.length === 0) return undefined;
  return new TorporError("internal", raw.join("\n"), { effect: "none" });
}

/**
 * Formats one line of the log for a person as "12:03:04 warn  message  key=value"; other lines stay
 * as they are.
 */
export function shownLogLine(line: string): string {
  const entry = parseEntry(line);
  if (entry === undefined) return line;
  const { time, level, message, ...fields } = entry;
  const clock = new Date(shownValue(time)).toTimeString().slice(0, 8);
  const details = Object.entries(fields)
    .map(([key, value]) => `${key}=${shownValue(value)}`)
    .join(" ");
  return `${clock} ${shownValue(level).padEnd(5)} ${shownValue(message)}  ${details}`.trimEnd();
}

/** Calls `onLine` with every line written after `offset`, until `signal` aborts. */
export async function followLog(
  path: string,
  offset: number,
  onLine: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  await using handle = await open(path, "r");
  const buffer = Buffer.alloc(readBytesMax);
  let at = offset;
  let rest = Buffer.alloc(0);
  while (!signal.aborted) {
    const { size } = await handle.stat();
    if (size < at) at = 0; // the file was truncated
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, at);
    at += bytesRead;
    // Cut at line ends, in bytes: a read may end in the middle of a character.
    rest = Buffer.concat([rest, buffer.subarray(0, bytesRead)]);
    const end = rest.lastIndexOf(0x0a);
    if (end >= 0) {
      for (const line of rest.toString("utf8", 0, end).split("\n")) onLine(line);
      rest = rest.subarray(end + 1);
    }
    if (bytesRead === 0) await sleepUnlessAborted(pollMs, signal);
  }
}

/** Sleeps, but returns early, without a failure, when `signal` aborts. */
export async function sleepUnlessAborted(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(ms, undefined, { signal });
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

interface LogEntry {
  readonly [field: string]: unknown;
  readonly code?: unknown;
  readonly message?: unknown;
  readonly advice?: unknown;
  readonly time?: unknown;
  readonly level?: unknown;
}

function parseEntry(line: string): LogEntry | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    return parseObject(parseJson(line, "log line"), "log line");
  } catch (error) {
    if (TorporError.is(error)) return undefined;
    throw error;
  }
}
