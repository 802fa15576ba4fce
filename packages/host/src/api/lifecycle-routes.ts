/** Operations on one sandbox: pause, connect, resume, kill, its timeout and its network. */
import { TorporError, optional, parseBoolean, parseInteger } from "@torpor/std";
import type { ApiHost, ApiSandbox } from "./api-host.ts";
import { bodyOf, bodyOrNone, refuse, sandboxIdOf } from "./fields.ts";
import {
  type Generation,
  defaultTimeoutMs,
  parseConnectTimeout,
  parseOnTimeout,
  parseTimeout,
} from "./lifetimes.ts";
import { parseNetworkUpdate } from "./network-body.ts";
import { answerInTime } from "./patience.ts";
import { type ApiAnswer, type ApiRequest, type Route, commandOf, noContent } from "./route.ts";
import { toSandbox } from "./sandbox-shape.ts";

const tag = "sandboxes";
/** The least and the most that the deprecated `refreshes` gives, in seconds. */
const refreshSecondsMin = 15;
const refreshSecondsMax = 3_600;

/** The routes that change one sandbox. */
export function lifecycleRoutes(host: ApiHost): readonly Route[] {
  const sandboxPath = "/sandboxes/{sandboxID}";
  const shared = { access: "team", tag } as const;
  return [
    {
      ...shared,
      method: "DELETE",
      path: sandboxPath,
      summary: "Kill a sandbox in whatever state it is, with its snapshot",
      answers: { 204: null },
      handle: (request) => kill(host, request),
    },
    {
      ...shared,
      method: "POST",
      path: `${sandboxPath}/pause`,
      summary: "Put a sandbox to sleep; the answer comes when it can be woken",
      body: { schema: "PauseRequest", required: false },
      answers: { 204: null },
      handle: (request) => pause(host, request),
    },
    {
      ...shared,
      method: "POST",
      path: `/v2${sandboxPath}/connect`,
      summary: "Wake a sandbox that sleeps (201), or see that one that runs goes on (200)",
      body: { schema: "ConnectRequest", required: false },
      answers: { 200: "Sandbox", 201: "Sandbox" },
      handle: (request) => connect(host, request, "v2"),
    },
    {
      ...shared,
      method: "POST",
      path: `${sandboxPath}/connect`,
      summary: "As of v2; the timeout has to be said",
      body: { schema: "ConnectRequest", required: true },
      answers: { 200: "Sandbox", 201: "Sandbox" },
      handle: (request) => connect(host, request, "v1"),
    },
    {
      ...shared,
      method: "POST",
      path: `${sandboxPath}/resume`,
      summary: "Wake a sandbox that sleeps; deprecated, connect to it instead",
      body: { schema: "ResumeRequest", required: false },
      answers: { 201: "Sandbox" },
      handle: (request) => resume(host, request),
    },
    {
      ...shared,
      method: "POST",
      path: `${sandboxPath}/timeout`,
      summary: "Let a running sandbox end this long from now, sooner or later than it would",
      body: { schema: "TimeoutRequest", required: true },
      answers: { 204: null },
      handle: (request) => setTimeout(host, request),
    },
    {
      ...shared,
      method: "POST",
      path: `${sandboxPath}/refreshes`,
      summary: "Give a running sandbox at least this long from now; deprecated",
      body: { schema: "RefreshRequest", required: false },
      answers: { 204: null },
      handle: (request) => refresh(host, request),
    },
    {
      ...shared,
      method: "PUT",
      path: `${sandboxPath}/network`,
      summary: "Replace what a running sandbox may reach",
      body: { schema: "NetworkUpdate", required: true },
      answers: { 204: null },
      handle: (request) => setNetwork(host, request),
    },
  ];
}

async function kill({ sandboxes }: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const { timings } = await sandboxes.remove(sandboxIdOf(request), commandOf(request));
  return { ...noContent, timings };
}

async function pause({ sandboxes }: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const body = bodyOrNone(request);
  const keepMemory = optional(body["memory"], parseBoolean, "memory") ?? true;
  // A pause always needs the agent's consent, and leaves the sandbox running without it.
  optional(body["requireHealthyGuest"], parseBoolean, "requireHealthyGuest");
  if (!keepMemory) refuse("a pause always keeps the memory here: memory: false is not supported");
  const { changed, timings } = await sandboxes.get(sandboxIdOf(request)).pause(commandOf(request));
  if (changed) return { ...noContent, timings };
  throw new TorporError("sandbox.wrongState", "the sandbox is already paused", { effect: "none" });
}

async function connect(
  { sandboxes, policy, servedDomain }: ApiHost,
  request: ApiRequest,
  generation: Generation,
): Promise<ApiAnswer> {
  const sandbox = sandboxes.get(sandboxIdOf(request));
  const body = bodyOrNone(request);
  refuseColdBoot(body["memory"]);
  const timeoutMs = parseConnectTimeout(
    body,
    generation,
    policy.timeoutMsMax,
    sandbox.record.lifetime,
  );
  const previous = optional(body["previous"], parseBoolean, "previous");
  refuseRemoving(sandbox);
  const { changed, timings } = await answerInTime(
    "waking the sandbox",
    policy.answerMsMax,
    sandbox.resume({ ...commandOf(request), timeoutMs, previous }),
  );
  return { status: changed ? 201 : 200, body: toSandbox(sandbox.record, servedDomain()), timings };
}

async function resume(
  { sandboxes, policy, servedDomain }: ApiHost,
  request: ApiRequest,
): Promise<ApiAnswer> {
  const sandbox = sandboxes.get(sandboxIdOf(request));
  const body = bodyOrNone(request);
  refuseColdBoot(body["memory"]);
  const timeoutMs = parseTimeout(body, policy.timeoutMsMax);
  const { kind } = sandbox.record.state;
  if (kind === "running" || kind === "checkpointing") {
    throw new TorporError("sandbox.wrongState", "the sandbox is already running");
  }
  if (kind === "removing") throw notThere(sandbox);
  const { timings } = await answerInTime(
    "waking the sandbox",
    policy.answerMsMax,
    sandbox.resume({
      ...commandOf(request),
      timeoutMs: timeoutMs === undefined ? defaultTimeoutMs.v1 : timeoutMs,
      onTimeout: parseOnTimeout(body),
    }),
  );
  return { status: 201, body: toSandbox(sandbox.record, servedDomain()), timings };
}

async function setTimeout({ sandboxes, policy }: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const body = bodyOf(request);
  // The wire shortens a timeout that is too long for the run, and refuses it only if no time is
  // left.
  const timeoutMs = parseTimeout(body, Number.POSITIVE_INFINITY);
  if (timeoutMs === undefined) throw new TorporError("argument.invalid", "timeout is missing");
  const sandbox = sandboxes.get(sandboxIdOf(request));
  // Torpor's own field may also be set while the sandbox is paused.
  if (body["timeout"] !== undefined) demandRunning(sandbox);
  await sandbox.setTimeoutMs(
    timeoutMs === null ? null : boundedMs(timeoutMs, sandbox, policy.timeoutMsMax),
    commandOf(request),
  );
  return noContent;
}

async function refresh({ sandboxes, policy }: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const duration = optional(bodyOrNone(request)["duration"], parseDuration, "duration") ?? 0;
  const sandbox = sandboxes.get(sandboxIdOf(request));
  demandRunning(sandbox);
  const wantedMs = Math.max(duration, refreshSecondsMin) * 1000;
  await sandbox.extendTimeoutMs(
    boundedMs(wantedMs, sandbox, policy.timeoutMsMax),
    commandOf(request),
  );
  return noContent;
}

async function setNetwork({ sandboxes }: ApiHost, request: ApiRequest): Promise<ApiAnswer> {
  const sandbox = sandboxes.get(sandboxIdOf(request));
  demandRunning(sandbox);
  const network = parseNetworkUpdate(bodyOf(request), sandbox.record.network);
  await sandbox.setNetwork(network, commandOf(request));
  return noContent;
}

/**
 * Shortens a timeout so that the run never lasts longer than the owner allows.
 * @throws argument.invalid
 */
function boundedMs(timeoutMs: number, { record }: ApiSandbox, timeoutMsMax: number): number {
  const isRunning = record.state.kind === "running";
  const leftMs = timeoutMsMax - (isRunning ? Date.now() - record.startedAtMs : 0);
  if (leftMs > 0) return Math.min(timeoutMs, leftMs);
  throw new TorporError("argument.invalid", "the sandbox has run for as long as it may");
}

/** @throws sandbox.wrongState in a transition, sandbox.notFound if the sandbox does not run */
function demandRunning(sandbox: ApiSandbox): void {
  const { kind } = sandbox.record.state;
  if (kind === "running") return;
  if (kind === "pausing" || kind === "checkpointing") {
    throw new TorporError(
      "sandbox.wrongState",
      `the sandbox is ${kind}: ask again when it is done`,
    );
  }
  throw notThere(sandbox);
}

function notThere({ record }: ApiSandbox): TorporError {
  const { id, state } = record;
  return new TorporError("sandbox.notFound", `no sandbox ${id} is running: it is ${state.kind}`, {
    advice: "Connect to it first, which wakes it.",
  });
}

function refuseRemoving({ record }: ApiSandbox): void {
  if (record.state.kind !== "removing") return;
  throw new TorporError("sandbox.wrongState", "the sandbox is being removed");
}

function refuseColdBoot(memory: unknown): void {
  if (optional(memory, parseBoolean, "memory") ?? true) return;
  refuse("a sandbox wakes with its memory here: memory: false is not supported");
}

function parseDuration(value: unknown, what: string): number {
  return parseInteger(value, what, 0, refreshSecondsMax);
}
