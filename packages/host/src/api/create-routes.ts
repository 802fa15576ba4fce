/** Making sandboxes: create in both generations of the wire, and fork. */
import { type JsonObject, TorporError, optional, parseInteger } from "@torpor/std";
import { forkCountMax } from "../sandboxes.ts";
import type { ApiCreated, ApiHost } from "./api-host.ts";
import { bodyOf, bodyOrNone, sandboxIdOf } from "./fields.ts";
import { type Generation, defaultTimeoutMs, parseLifetime } from "./lifetimes.ts";
import { parseNewSandbox } from "./new-sandbox.ts";
import { answerInTime } from "./patience.ts";
import { type ApiAnswer, type ApiRequest, type Route, commandOf } from "./route.ts";
import { toSandbox } from "./sandbox-shape.ts";

const tag = "sandboxes";

export function createRoutes(host: ApiHost): readonly Route[] {
  return [
    {
      method: "POST",
      path: "/v2/sandboxes",
      access: "team",
      tag,
      summary:
        "Make a sandbox; it always asks for its token, and ends after 300 s unless told otherwise",
      body: { schema: "NewSandbox", required: true },
      answers: { 201: "Sandbox" },
      handle: (request) => create(host, request, "v2"),
    },
    {
      method: "POST",
      path: "/sandboxes",
      access: "team",
      tag,
      summary:
        "Make a sandbox; it asks for a token if `secure`, and ends after 15 s unless told otherwise",
      body: { schema: "NewSandbox", required: true },
      answers: { 201: "Sandbox" },
      handle: (request) => create(host, request, "v1"),
    },
    {
      method: "POST",
      path: "/sandboxes/{sandboxID}/fork",
      access: "team",
      tag,
      summary: "Make sandboxes that begin at this instant of another, which goes on",
      body: { schema: "ForkRequest", required: false },
      answers: { 201: { listOf: "ForkResult" } },
      handle: (request) => fork(host, request),
    },
  ];
}

async function create(
  { sandboxes, policy }: ApiHost,
  request: ApiRequest,
  generation: Generation,
): Promise<ApiAnswer> {
  const wanted = parseNewSandbox(bodyOf(request), generation, policy.timeoutMsMax);
  const { sandbox, outcome } = await answerInTime(
    "making the sandbox",
    policy.answerMsMax,
    sandboxes.create(wanted),
    // Its client was told that there is none.
    (late) => sandboxes.remove(late.sandbox.record.id),
  );
  return { status: 201, body: toSandbox(sandbox.record), timings: outcome.timings };
}

async function fork({ sandboxes, policy }: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const body = bodyOrNone(request);
  const count = optional(body["count"], parseForkCount, "count") ?? 1;
  const lifetime = parseLifetime(body, defaultTimeoutMs.v1, policy.timeoutMsMax);
  const { timings, children } = await sandboxes.fork(
    sandboxIdOf(request),
    { count, lifetime },
    commandOf(request),
  );
  return { status: 201, body: children.map(toForkResult), timings };
}

function parseForkCount(value: unknown, what: string): number {
  return parseInteger(value, what, 1, forkCountMax);
}

function toForkResult(result: PromiseSettledResult<ApiCreated>): JsonObject {
  if (result.status === "fulfilled") return { sandbox: toSandbox(result.value.sandbox.record) };
  return { error: TorporError.from(result.reason, "internal").toBody() };
}
