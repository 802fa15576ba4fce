/**
 * The daemon's HTTP API: requests in, calls to `Sandboxes`, answers out.
 *
 * Routes outside `/torpor/` have the shapes of the E2B control plane; those below it are our own and
 * show what that wire cannot say. Every answer that changes a sandbox lists how long each step took
 * in `Server-Timing`. An error is always the body of std's table with a numeric `code`.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { envdVersion } from "@torpor/protocol";
import {
  type JsonObject,
  type StepTiming,
  TorporError,
  optional,
  parseBoolean,
  parseInteger,
  parseObject,
  parseString,
  parseStringMap,
} from "@torpor/std";
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from "fastify";
import type { ApiKeys } from "./api-keys.ts";
import { readConsole, readDetail, readDetails } from "./detail.ts";
import { parseLifetime } from "./lifetime-request.ts";
import { toSandbox, toSandboxDetail, toSnapshot } from "./e2b-shape.ts";
import { forwardToGuest, isForGuest } from "./edge.ts";
import type { HostContext } from "./host-context.ts";
import type { Command, Outcome } from "./sandbox.ts";
import { type Created, type Sandboxes, forkCountMax } from "./sandboxes.ts";

/** LIMITS of the listener, as the E2B wire has them. */
const headersMs = 10_000;
const idleMs = 620_000;
const bodyBytesMax = 16 * 1024 * 1024;
const nameCharsMax = 128;
/** LIMIT: each spare keeps a VM process in memory. */
const poolMax = 100;
/** Names the run that a request is meant for. */
const epochHeader = "torpor-epoch";

export interface ApiOptions {
  readonly host: HostContext;
  readonly sandboxes: Sandboxes;
  readonly apiKeys: ApiKeys;
  /** Facts about this daemon for `GET /torpor/daemon`. */
  readonly describe: () => Promise<JsonObject>;
  /** False on the Unix socket, whose file permissions say who may connect. */
  readonly requireKey: boolean;
  readonly createServer: (
    handler: (request: IncomingMessage, response: ServerResponse) => void,
  ) => Server;
}

/** A listener's application; the caller listens with `app.server`. */
export async function createApi(options: ApiOptions): Promise<FastifyInstance> {
  const app = Fastify({
    bodyLimit: bodyBytesMax,
    requestTimeout: 0,
    serverFactory: (handler) => {
      const server = options.createServer((request, response) => {
        if (isForGuest(request)) void forwardToGuest(options.sandboxes, request, response);
        else handler(request, response);
      });
      server.headersTimeout = headersMs;
      server.keepAliveTimeout = idleMs;
      server.requestTimeout = 0;
      return server;
    },
  });
  app.setErrorHandler((cause, _request, reply) => sendError(reply, cause));
  app.setNotFoundHandler((request, reply) =>
    sendError(
      reply,
      new TorporError("sandbox.notFound", `no route ${request.method} ${request.url}`),
    ),
  );
  acceptEmptyJson(app);
  if (options.requireKey) requireApiKey(app, options.apiKeys);
  sandboxRoutes(app, options);
  snapshotRoutes(app, options);
  torporRoutes(app, options);
  await app.ready();
  return app;
}

function sandboxRoutes(app: FastifyInstance, { sandboxes, host }: ApiOptions): void {
  app.get("/health", (_request, reply) => reply.code(204).send());

  app.post("/v2/sandboxes", async (request, reply) => {
    const body = parseObject(request.body, "body");
    const { sandbox, outcome } = await sandboxes.create({
      template: parseString(body["templateID"], "templateID", nameCharsMax),
      metadata: optional(body["metadata"], parseStringMap, "metadata") ?? {},
      envVars: optional(body["envVars"], parseStringMap, "envVars") ?? {},
      lifetime: parseLifetime(body),
    });
    addTimings(reply, outcome.timings);
    return reply.code(201).send(toSandbox(sandbox.record, envdVersion));
  });

  app.get("/sandboxes/:id", async (request) => {
    const { record } = sandboxes.get(idOf(request.params));
    return toSandboxDetail(record, await host.templates.open(record.templateId), envdVersion);
  });

  app.delete("/sandboxes/:id", async (request, reply) => {
    addTimings(reply, (await sandboxes.remove(idOf(request.params), commandOf(request))).timings);
    return reply.code(204).send();
  });

  app.post("/sandboxes/:id/pause", async (request, reply) => {
    const outcome = await sandboxes.get(idOf(request.params)).pause(commandOf(request));
    if (!outcome.changed) {
      throw new TorporError("sandbox.wrongState", "the sandbox is already paused", {
        effect: "none",
      });
    }
    addTimings(reply, outcome.timings);
    return reply.code(204).send();
  });

  app.post("/v2/sandboxes/:id/connect", async (request, reply) => {
    const sandbox = sandboxes.get(idOf(request.params));
    const body = parseObject(request.body ?? {}, "body");
    const outcome = await sandbox.resume({
      ...commandOf(request),
      timeoutMs: parseLifetime(body).timeoutMs,
      previous: optional(body["previous"], parseBoolean, "previous"),
    });
    addTimings(reply, outcome.timings);
    return reply.code(outcome.changed ? 201 : 200).send(toSandbox(sandbox.record, envdVersion));
  });
}

function snapshotRoutes(app: FastifyInstance, { sandboxes }: ApiOptions): void {
  app.post("/sandboxes/:id/timeout", async (request, reply) => {
    const { timeoutMs } = parseLifetime(parseObject(request.body, "body"));
    if (timeoutMs === undefined) throw new TorporError("argument.invalid", "timeout is missing");
    await sandboxes.get(idOf(request.params)).setTimeoutMs(timeoutMs, commandOf(request));
    return reply.code(204).send();
  });

  app.post("/sandboxes/:id/fork", async (request, reply) => {
    const body = parseObject(request.body ?? {}, "body");
    const count = optional(body["count"], parseForkCount, "count") ?? 1;
    const { timings, children } = await sandboxes.fork(
      idOf(request.params),
      { count, lifetime: parseLifetime(body) },
      commandOf(request),
    );
    addTimings(reply, timings);
    return reply.code(201).send(children.map(toForkResult));
  });

  app.post("/sandboxes/:id/snapshots", async (request, reply) => {
    const body = parseObject(request.body ?? {}, "body");
    const name = optional(body["name"], parseName, "name") ?? null;
    const id = await sandboxes.takeSnapshot(idOf(request.params), name, commandOf(request));
    return reply.code(201).send(toSnapshot(sandboxes.snapshots.get(id)));
  });

  app.get("/snapshots", () => sandboxes.snapshots.all().map(toSnapshot));

  app.delete("/templates/:id", async (request, reply) => {
    await sandboxes.removeSnapshot(idOf(request.params));
    return reply.code(204).send();
  });

  app.post("/torpor/snapshots/:id/pool", async (request, reply) => {
    const { count } = parseObject(request.body, "body");
    await sandboxes.setPool(idOf(request.params), parseInteger(count, "count", 0, poolMax));
    return reply.code(204).send();
  });
}

function torporRoutes(app: FastifyInstance, options: ApiOptions): void {
  const { sandboxes, apiKeys, host } = options;
  app.get("/torpor/daemon", async () => await options.describe());
  app.get("/torpor/sandboxes", async () => await readDetails(sandboxes));
  app.get("/torpor/sandboxes/:id", async (request) =>
    readDetail(sandboxes, sandboxes.get(idOf(request.params))),
  );
  app.get("/torpor/sandboxes/:id/console", async (request) =>
    readConsole(sandboxes.get(idOf(request.params))),
  );
  app.get("/torpor/templates", async () => await host.templates.names());
  app.get("/torpor/api-keys", async () => await apiKeys.list());
  app.post("/torpor/api-keys", async (request, reply) => {
    const name = parseString(parseObject(request.body, "body")["name"], "name", nameCharsMax);
    return reply.code(201).send(await apiKeys.create(name));
  });
}

function requireApiKey(app: FastifyInstance, apiKeys: ApiKeys): void {
  app.addHook("onRequest", async (request) => {
    if (request.url === "/health") return;
    const key = request.headers["x-api-key"];
    if (typeof key === "string" && (await apiKeys.isValid(key))) return;
    throw new TorporError("auth.missing", "the X-API-Key header is missing or unknown");
  });
}

/** Clients send `Content-Type: application/json` also where there is no body to speak of. */
function acceptEmptyJson(app: FastifyInstance): void {
  app.addContentTypeParser("application/json", { parseAs: "string" }, (_request, text, done) => {
    try {
      done(null, text === "" ? {} : JSON.parse(String(text)));
    } catch (cause) {
      done(new TorporError("argument.invalid", "the body is not valid JSON", { cause }));
    }
  });
}

function sendError(reply: FastifyReply, cause: unknown): FastifyReply {
  const status = cause instanceof Error && "statusCode" in cause ? cause.statusCode : undefined;
  const isClientFault = typeof status === "number" && status >= 400 && status < 500;
  const error = TorporError.from(cause, isClientFault ? "argument.invalid" : "internal");
  if (error.code === "internal") reply.log.error(error);
  return reply.code(error.status).send(error.toBody());
}

function addTimings(reply: FastifyReply, timings: Outcome["timings"]): void {
  const total = timings.reduce((sum, { tookMs }) => sum + tookMs, 0);
  const entries = [...timings, { step: "total", tookMs: total }].map(formatTiming);
  void reply.header("Server-Timing", entries.join(", "));
}

function formatTiming({ step, tookMs }: StepTiming): string {
  return `${step.replaceAll(" ", "-")};dur=${tookMs.toFixed(1)}`;
}

function idOf(params: unknown): string {
  return parseString(parseObject(params, "path")["id"], "sandbox id", nameCharsMax);
}

function parseForkCount(value: unknown, what: string): number {
  return parseInteger(value, what, 1, forkCountMax);
}

function parseName(value: unknown, what: string): string {
  return parseString(value, what, nameCharsMax);
}

/** @throws argument.invalid when the header is there and no number */
function commandOf({ headers }: FastifyRequest): Command {
  const epoch = headers[epochHeader];
  if (epoch === undefined) return {};
  return { epoch: parseInteger(Number(epoch), "Torpor-Epoch", 0, Number.MAX_SAFE_INTEGER) };
}

function toForkResult(result: PromiseSettledResult<Created>): JsonObject {
  if (result.status === "fulfilled") {
    return { sandbox: toSandbox(result.value.sandbox.record, envdVersion) };
  }
  return { error: TorporError.from(result.reason, "internal").toBody() };
}
