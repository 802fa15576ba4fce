/** Reads sandboxes: one, or pages of many. */
import { type JsonObject, TorporError } from "@torpor/std";
import type { SandboxRecord } from "../records/sandbox-records.ts";
import type { ApiHost, ApiSandbox } from "./api-host.ts";
import { queryText, sandboxIdOf } from "./fields.ts";
import { type ListQuery, parseListQuery, parseMetadataFilter, selectPage } from "./list-query.ts";
import type { ApiAnswer, ApiRequest, QueryParameter, Route } from "./route.ts";
import { toListedSandbox, toSandboxDetail, wireStateOf } from "./sandbox-shape.ts";
import { TemplateSizes } from "./template-sizes.ts";

const tag = "sandboxes";

const metadata: QueryParameter = {
  type: "string",
  description: "Only those with all of this metadata: a query string, encoded as one value",
};

/** Query parameters of every route that answers in pages. */
export const pageQuery = {
  limit: { type: "integer", description: "Entries of a page, 1 to 100; 100 when absent" },
  nextToken: { type: "string", description: "Where the page before ended: its X-Next-Token" },
} as const satisfies Record<string, QueryParameter>;

/** The routes that read sandboxes. */
export function lookRoutes(host: ApiHost): readonly Route[] {
  const sizes = new TemplateSizes(host.templates);
  return [
    {
      method: "GET",
      path: "/v2/sandboxes",
      access: "team",
      tag,
      summary: "Sandboxes, newest first; X-Next-Token leads to the next page",
      query: {
        metadata,
        state: { type: "string", description: "running, paused, or both with a comma" },
        order: { type: "string", description: "asc or desc, by the start of the run" },
        startedAfter: { type: "string", description: "Only those started then or later" },
        template: { type: "string", description: "Only those of this template, by id or name" },
        ...pageQuery,
      },
      answers: { 200: { listOf: "ListedSandbox" } },
      handle: (request) => list(host, sizes, parseListQuery(request)),
    },
    {
      method: "GET",
      path: "/sandboxes",
      access: "team",
      tag,
      summary: "All sandboxes that run; deprecated",
      query: { metadata },
      answers: { 200: { listOf: "ListedSandbox" } },
      handle: (request) => listRunning(host, sizes, request),
    },
    {
      method: "GET",
      path: "/sandboxes/{sandboxID}",
      access: "team",
      tag,
      summary: "One sandbox",
      answers: { 200: "SandboxDetail" },
      handle: async (request) => {
        const { record } = visibleSandbox(host, sandboxIdOf(request));
        const size = await sizes.of(record.templateId);
        return { status: 200, body: toSandboxDetail(record, size, host.servedDomain()) };
      },
    },
  ];
}

/**
 * A sandbox that the wire can show.
 * @throws sandbox.notFound, also while it is being created or removed
 */
export function visibleSandbox({ sandboxes }: ApiHost, id: string): ApiSandbox {
  const sandbox = sandboxes.get(id);
  if (wireStateOf(sandbox.record) !== undefined) return sandbox;
  const { kind } = sandbox.record.state;
  throw new TorporError("sandbox.notFound", `there is no sandbox ${id} to use: it is ${kind}`);
}

async function list(host: ApiHost, sizes: TemplateSizes, query: ListQuery): Promise<ApiAnswer> {
  const records = host.sandboxes.all().map(({ record }) => record);
  const page = selectPage(records, query);
  return {
    status: 200,
    body: await toEntries(page.records, sizes),
    headers: {
      ...(page.nextToken === undefined ? {} : { "x-next-token": page.nextToken }),
      ...(query.states.includes("running") ? { "x-total-running": String(page.runningCount) } : {}),
    },
  };
}

async function listRunning(
  host: ApiHost,
  sizes: TemplateSizes,
  request: ApiRequest,
): Promise<ApiAnswer> {
  const records = host.sandboxes.all().map(({ record }) => record);
  const { records: running } = selectPage(records, {
    metadata: parseMetadataFilter(queryText(request, "metadata") ?? ""),
    states: ["running"],
    ascending: false,
    startedAfterMs: undefined,
    template: undefined,
    limit: records.length,
    after: undefined,
  });
  return { status: 200, body: await toEntries(running, sizes) };
}

async function toEntries(
  records: readonly SandboxRecord[],
  sizes: TemplateSizes,
): Promise<readonly JsonObject[]> {
  return await Promise.all(
    records.map(async (record) => toListedSandbox(record, await sizes.of(record.templateId))),
  );
}
