/**
 * The query of a list of sandboxes, and the page that answers it: filter, sort, then cut. Pure.
 *
 * A page ends with a token that names its last entry, so that sandboxes created or removed between
 * two pages neither repeat nor hide others.
 */
import { TorporError, parseOneOf } from "@torpor/std";
import type { SandboxRecord } from "../records/sandbox-records.ts";
import { queryInteger, queryText } from "./fields.ts";
import type { ApiRequest } from "./route.ts";
import { type WireState, wireStateOf } from "./sandbox-shape.ts";

const pageMax = 100;
const instantPattern = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/i;
const ascendingMark = "__asc";

/** A parsed query; sandboxes must match all filters. */
export interface ListQuery {
  readonly metadata: ReadonlyMap<string, string>;
  readonly states: readonly WireState[];
  readonly ascending: boolean;
  readonly startedAfterMs: number | undefined;
  readonly template: string | undefined;
  readonly limit: number;
  readonly after: Position | undefined;
}

/** Where a page ended. */
interface Position {
  readonly startedAtMs: number;
  readonly id: string;
}

/** One page of the list. */
export interface Page {
  readonly records: readonly SandboxRecord[];
  /** Undefined on the last page. */
  readonly nextToken: string | undefined;
  /** Running sandboxes that match the filters, on all pages together. */
  readonly runningCount: number;
}

/** Parses the query of a list. @throws argument.invalid */
export function parseListQuery(request: ApiRequest): ListQuery {
  const order = queryText(request, "order") ?? "desc";
  const ascending = parseOneOf(order, "order", ["asc", "desc"]) === "asc";
  const token = queryText(request, "nextToken") ?? "";
  return {
    metadata: parseMetadataFilter(queryText(request, "metadata") ?? ""),
    states: parseStates(queryText(request, "state")),
    ascending,
    startedAfterMs: parseInstant(queryText(request, "startedAfter")),
    template: parseTemplateFilter(queryText(request, "template")),
    limit: pageLimitOf(request),
    after: token === "" ? undefined : decodeToken(token, ascending),
  };
}

/**
 * The number of entries that a request wants on a page; 100 if it does not say.
 * @throws argument.invalid
 */
export function pageLimitOf(request: ApiRequest): number {
  return queryInteger(request, "limit", 1, pageMax) ?? pageMax;
}

/** Selects the page that a query asks for. */
export function selectPage(records: Iterable<SandboxRecord>, query: ListQuery): Page {
  const found = [...records].filter((record) => matches(record, query));
  const sign = query.ascending ? 1 : -1;
  found.sort((a, b) => sign * compare(a, b));
  const { after, limit } = query;
  const first =
    after === undefined ? 0 : found.findIndex((record) => sign * compare(record, after) > 0);
  const page = first < 0 ? [] : found.slice(first, first + limit);
  const last = page.at(-1);
  const isLast = last === undefined || last === found.at(-1);
  return {
    records: page,
    nextToken: isLast ? undefined : encodeToken(last, query.ascending),
    runningCount: found.filter((record) => wireStateOf(record) === "running").length,
  };
}

/**
 * Parses the metadata filter. It is percent-encoded once more than other query parameters, and its
 * keys and values once more than that.
 * @throws argument.invalid
 */
export function parseMetadataFilter(text: string): ReadonlyMap<string, string> {
  if (text === "") return new Map();
  const pairs = unescape(text)
    .split("&")
    .map((pair) => {
      const [key = "", value, ...more] = pair.split("=");
      if (value === undefined || more.length > 0) {
        throw new TorporError("argument.invalid", `metadata: "${pair}" is not key=value`);
      }
      return [unescape(key), unescape(value)] as const;
    });
  return new Map(pairs);
}

function unescape(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll("+", " "));
  } catch (cause) {
    throw new TorporError("argument.invalid", "metadata is not encoded as a URL is", { cause });
  }
}

function matches(record: SandboxRecord, query: ListQuery): boolean {
  const state = wireStateOf(record);
  if (state === undefined || !query.states.includes(state)) return false;
  if (query.startedAfterMs !== undefined && record.startedAtMs < query.startedAfterMs) return false;
  const { template } = query;
  if (template !== undefined && ![record.templateId, record.templateName].includes(template)) {
    return false;
  }
  for (const [key, value] of query.metadata) {
    if (!Object.hasOwn(record.metadata, key) || record.metadata[key] !== value) return false;
  }
  return true;
}

function compare(a: Position, b: Position): number {
  if (a.startedAtMs !== b.startedAtMs) return a.startedAtMs - b.startedAtMs;
  return a.id < b.id ? -1 : a.id > b.id ? 1 : 0;
}

function parseStates(text: string | undefined): readonly WireState[] {
  const states = ["running", "paused"] as const;
  if (text === undefined || text === "") return states;
  return text.split(",").map((word) => parseOneOf(word, "state", states));
}

function parseInstant(text: string | undefined): number | undefined {
  if (text === undefined || text === "") return undefined;
  const ms = instantPattern.test(text) ? Date.parse(text) : Number.NaN;
  if (!Number.isNaN(ms)) return ms;
  throw new TorporError("argument.invalid", "startedAfter is not an instant in RFC 3339");
}

function parseTemplateFilter(text: string | undefined): string | undefined {
  if (text === undefined || text === "") return undefined;
  if (text.includes(":")) throw new TorporError("argument.invalid", "template: leave out the tag");
  return text.toLowerCase().split("/").at(-1);
}

function encodeToken({ startedAtMs, id }: Position, ascending: boolean): string {
  const text = `${new Date(startedAtMs).toISOString()}__${id}${ascending ? ascendingMark : ""}`;
  return Buffer.from(text).toString("base64url");
}

function decodeToken(token: string, ascending: boolean): Position {
  const text = Buffer.from(token, "base64url").toString();
  const [instant = "", id = ""] = text.split("__");
  const startedAtMs = Date.parse(instant);
  if (text.endsWith(ascendingMark) === ascending && !Number.isNaN(startedAtMs) && id !== "") {
    return { startedAtMs, id };
  }
  throw new TorporError("argument.invalid", "nextToken is not one of this order");
}
