/** Metrics and logs of sandboxes. */
import type { GuestSample } from "@torpor/guest";
import { type JsonObject, TorporError, parseOneOf } from "@torpor/std";
import { type LogEntry, logLevels } from "../guest-log-line.ts";
import type { ApiHost } from "./api-host.ts";
import { parseSandboxId, queryInteger, queryText, sandboxIdOf } from "./fields.ts";
import { visibleSandbox } from "./look-routes.ts";
import type { ApiAnswer, ApiRequest, QueryParameter, Route } from "./route.ts";
import { toDate } from "./sandbox-shape.ts";

const shared = { access: "team", tag: "metrics and logs" } as const;
/** LIMITS of one answer. */
const sandboxesMax = 100;
const entriesMax = 1_000;
const searchCharsMax = 256;
const secondsMax = Number.MAX_SAFE_INTEGER / 1000;

const limit: QueryParameter = {
  type: "integer",
  description: "At most 1000, which is the default",
};

/** The routes that read metrics and logs. */
export function observeRoutes(host: ApiHost): readonly Route[] {
  return [
    {
      ...shared,
      method: "GET",
      path: "/sandboxes/{sandboxID}/metrics",
      summary: "What a sandbox used of processor, memory and disk, oldest first",
      query: {
        start: { type: "integer", description: "Seconds since 1970" },
        end: { type: "integer", description: "Seconds since 1970" },
      },
      answers: { 200: { listOf: "Metric" } },
      handle: (request) => metricsOfOne(host, request),
    },
    {
      ...shared,
      method: "GET",
      path: "/sandboxes/metrics",
      summary: "The newest metrics of many sandboxes",
      query: { sandbox_ids: { type: "string", description: "Up to 100 ids, with commas" } },
      answers: { 200: "MetricsOfMany" },
      handle: (request) => metricsOfMany(host, request),
    },
    {
      ...shared,
      method: "GET",
      path: "/sandboxes/{sandboxID}/logs",
      summary: "What a sandbox said, oldest first",
      query: {
        start: { type: "integer", description: "Only from this instant on, in ms since 1970" },
        limit,
      },
      answers: { 200: "LogsOfV1" },
      handle: (request) => logsOfV1(host, request),
    },
    {
      ...shared,
      method: "GET",
      path: "/v2/sandboxes/{sandboxID}/logs",
      summary: "What a sandbox said, from an instant backward or forward",
      query: {
        cursor: { type: "integer", description: "The instant, in ms since 1970" },
        limit,
        direction: { type: "string", description: "backward, newest first; or forward" },
        level: { type: "string", description: "debug, info, warn or error, and what is worse" },
        search: { type: "string", description: "A part of the message" },
      },
      answers: { 200: "Logs" },
      handle: (request) => logsOfV2(host, request),
    },
  ];
}

async function metricsOfOne(host: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const startMs = (queryInteger(request, "start", 0, secondsMax) ?? 0) * 1000;
  const endMs = (queryInteger(request, "end", 0, secondsMax) ?? secondsMax) * 1000;
  if (endMs < startMs) throw new TorporError("argument.invalid", "end is before start");
  const samples = await host.metrics.of(visibleSandbox(host, sandboxIdOf(request)));
  const body = samples
    // The last second is included as a whole.
    .filter(({ atMs }) => atMs >= startMs && atMs < endMs + 1000)
    .map(toMetric);
  return { status: 200, body };
}

async function metricsOfMany(host: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const ids = (queryText(request, "sandbox_ids") ?? "").split(",").filter((id) => id !== "");
  if (ids.length === 0 || ids.length > sandboxesMax) {
    throw new TorporError("argument.invalid", `sandbox_ids must name 1 to ${sandboxesMax}`);
  }
  const known = new Map(host.sandboxes.all().map((one) => [one.record.id, one]));
  const entries = await Promise.all(
    ids.map(async (text) => {
      const id = parseSandboxId(text, "sandbox_ids");
      const sandbox = known.get(id);
      const newest = sandbox === undefined ? undefined : (await host.metrics.of(sandbox)).at(-1);
      return newest === undefined ? [] : [[id, toMetric(newest)] as const];
    }),
  );
  return { status: 200, body: { sandboxes: Object.fromEntries(entries.flat()) } };
}

async function logsOfV1(host: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const startMs = queryInteger(request, "start", 0, Number.MAX_SAFE_INTEGER) ?? 0;
  const count = limitOf(request);
  const all = await host.logs.of(visibleSandbox(host, sandboxIdOf(request)));
  const entries = all.filter(({ atMs }) => atMs >= startMs).slice(0, count);
  return {
    status: 200,
    body: { logs: entries.map(toLine), logEntries: entries.map(toEntry) },
  };
}

async function logsOfV2(host: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const direction = parseOneOf(queryText(request, "direction") ?? "backward", "direction", [
    "forward",
    "backward",
  ]);
  const cursorMs = queryInteger(request, "cursor", 0, Number.MAX_SAFE_INTEGER);
  const count = limitOf(request);
  const worst = logLevels.indexOf(
    parseOneOf(queryText(request, "level") ?? "debug", "level", logLevels),
  );
  const search = queryText(request, "search") ?? "";
  if (search.length > searchCharsMax) {
    throw new TorporError(
      "argument.invalid",
      `search must have at most ${searchCharsMax} characters`,
    );
  }
  const all = await host.logs.of(visibleSandbox(host, sandboxIdOf(request)));
  const found = all.filter(
    ({ level, message }) => logLevels.indexOf(level) >= worst && message.includes(search),
  );
  const entries =
    direction === "forward"
      ? found.filter(({ atMs }) => atMs >= (cursorMs ?? 0))
      : found.filter(({ atMs }) => atMs <= (cursorMs ?? Number.MAX_SAFE_INTEGER)).toReversed();
  return { status: 200, body: { logs: entries.slice(0, count).map(toEntry) } };
}

function limitOf(request: ApiRequest): number {
  return queryInteger(request, "limit", 0, entriesMax) ?? entriesMax;
}

/** One entry for clients that show JSON lines; they know `level`, `logger` and `message`. */
function toLine({ atMs, level, message, fields }: LogEntry): JsonObject {
  return { timestamp: toDate(atMs), line: JSON.stringify({ ...fields, level, message }) };
}

function toEntry({ atMs, level, message, fields }: LogEntry): JsonObject {
  return { timestamp: toDate(atMs), level, message, fields };
}

function toMetric(sample: GuestSample): JsonObject {
  return {
    timestamp: toDate(sample.atMs),
    timestampUnix: Math.floor(sample.atMs / 1000),
    cpuCount: sample.cpuCount,
    cpuUsedPct: sample.cpuUsedPercent,
    memUsed: sample.memoryUsedBytes,
    memTotal: sample.memoryTotalBytes,
    memCache: sample.memoryCacheBytes,
    diskUsed: sample.diskUsedBytes,
    diskTotal: sample.diskTotalBytes,
  };
}
