/** Routes that create sandboxes: create in both generations of the wire, and fork. */
import { type JsonObject, TorporError, optional, parseInteger } from "@torpor/std";
import { type Product, idOf } from "../idempotency.ts";
import type { Made } from "../records/idempotency-records.ts";
import { forkCountMax } from "../sandboxes.ts";
import type { ApiCreated, ApiHost } from "./api-host.ts";
import { bodyOf, bodyOrNone, sandboxIdOf } from "./fields.ts";
import { type Generation, defaultTimeoutMs, parseLifetime } from "./lifetimes.ts";
import { parseNewSandbox } from "./new-sandbox.ts";
import { answerInTime } from "./patience.ts";
import { type ApiAnswer, type ApiRequest, type Route, commandOf } from "./route.ts";
import { toSandbox } from "./sandbox-shape.ts";

const tag = "sandboxes";

/** The routes that create sandboxes. */
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
      onRepeat: "asKeyed",
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
      onRepeat: "asKeyed",
      answers: { 201: "Sandbox" },
      handle: (request) => create(host, request, "v1"),
    },
    {
      method: "POST",
      path: "/sandboxes/{sandboxID}/fork",
      access: "team",
      tag,
      summary:
        "Make sandboxes that begin at this instant of another, which goes on; each ends after 300 s unless told otherwise",
      body: { schema: "ForkRequest", required: false },
      onRepeat: "asKeyed",
      answers: { 201: { listOf: "ForkResult" } },
      handle: (request) => fork(host, request),
    },
  ];
}

async function create(
  host: ApiHost,
  request: ApiRequest,
  generation: Generation,
): Promise<ApiAnswer> {
  const { sandboxes, idempotency, policy } = host;
  const body = bodyOf(request);
  const wanted = parseNewSandbox(body, generation, policy.timeoutMsMax);
  await refuseOtherSize(host, body, wanted.template);
  const product = idempotency.once(request.keyed, async (decided) => {
    const { sandbox, outcome } = await sandboxes.create(wanted, decided);
    return { made: [sandbox.record.id], timings: outcome.timings };
  });
  // A client that got no answer in time was told that there is no sandbox, so it is removed. A
  // client that sent a key can repeat the request and get this one.
  const giveBack = async ({ made }: Product): Promise<void> => {
    if (request.keyed === undefined) await sandboxes.remove(idOf(made));
  };
  const { made, timings } = await answerInTime(
    "making the sandbox",
    policy.answerMsMax,
    product,
    giveBack,
  );
  return { status: 201, body: toMade(host, idOf(made)), timings };
}

async function fork(host: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const { sandboxes, idempotency, policy } = host;
  const body = bodyOrNone(request);
  const count = optional(body["count"], parseForkCount, "count") ?? 1;
  const lifetime = parseLifetime(body, defaultTimeoutMs.v2, policy.timeoutMsMax);
  const id = sandboxIdOf(request);
  const command = commandOf(request);
  const { made, timings } = await idempotency.once(request.keyed, async (decided) => {
    const forked = await sandboxes.fork(id, { count, lifetime }, command, decided);
    return { made: forked.children.map(madeOf), timings: forked.timings };
  });
  return { status: 201, body: made.map((one) => toForkResult(host, one)), timings };
}

/**
 * Refuses another size: a sandbox has the size of its template, whose memory it begins with.
 * @throws argument.invalid when another is asked for, template.missing
 */
async function refuseOtherSize(host: ApiHost, body: JsonObject, reference: string): Promise<void> {
  const cpuCount = optional(body["cpuCount"], parseSize, "cpuCount");
  const memoryMB = optional(body["memoryMB"], parseSize, "memoryMB");
  if (cpuCount === undefined && memoryMB === undefined) return;
  const snapshot = host.sandboxes.snapshots.find(reference);
  const templateId = snapshot?.templateId ?? host.tags.resolve(reference);
  const { vcpuCount, memoryMiB } = (await host.templates.open(templateId)).manifest.machine;
  const isSame = (cpuCount ?? vcpuCount) === vcpuCount && (memoryMB ?? memoryMiB) === memoryMiB;
  if (isSame) return;
  const has = `${vcpuCount} CPU and ${memoryMiB} MiB`;
  throw new TorporError(
    "argument.invalid",
    `cpuCount and memoryMB: sandboxes of ${reference} have ${has}, and no other size`,
    { advice: "Leave both out, or name a template of the size that you need." },
  );
}

function parseSize(value: unknown, what: string): number {
  return parseInteger(value, what, 1, Number.MAX_SAFE_INTEGER);
}

function parseForkCount(value: unknown, what: string): number {
  return parseInteger(value, what, 1, forkCountMax);
}

function madeOf(child: PromiseSettledResult<ApiCreated>): Made {
  if (child.status === "fulfilled") return child.value.sandbox.record.id;
  return TorporError.from(child.reason, "internal").toBody();
}

function toForkResult(host: ApiHost, made: Made): JsonObject {
  if (typeof made !== "string") return { error: made };
  try {
    return { sandbox: toMade(host, made) };
  } catch (cause) {
    return { error: TorporError.from(cause, "internal").toBody() };
  }
}

/** The sandbox as it is now. @throws sandbox.notFound if it is gone by now, as a repeat may find */
function toMade({ sandboxes, servedDomain }: ApiHost, id: string): JsonObject {
  try {
    return toSandbox(sandboxes.get(id).record, servedDomain());
  } catch (cause) {
    const message = `sandbox ${id} was made by this request, and is gone`;
    throw new TorporError("sandbox.notFound", message, { cause, effect: "done" });
  }
}
