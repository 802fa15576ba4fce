/**
 * The daemon's HTTP API on one listener: from a request to its route, and from the route's answer
 * to the wire.
 *
 * Routes outside `/torpor/` have the shapes of the E2B control plane; those below it are Torpor's
 * own and show what that wire cannot express. Every answer names its request, and an answer about a
 * change of a sandbox lists how long each step took in `Server-Timing`. An error is always the body
 * of std's table with a numeric `code`. A request has the same effect whether its client waits for
 * the answer or disconnects.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { type StepTiming, TorporError } from "@torpor/std";
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from "fastify";
import {
  type RequestContext,
  newRequestContext,
  requestIdHeader,
  runInRequest,
} from "../request-context.ts";
import { isHttp2 } from "../edge/http2.ts";
import type { ApiHost } from "./api-host.ts";
import { refuseUnknownFields } from "./body-fields.ts";
import { identify } from "./credentials.ts";
import { sendError, sharedHeaders } from "./error-answer.ts";
import { idempotencyHeader, keyedRequestOf } from "./idempotency-key.ts";
import {
  type ListenerLimits,
  defaultLimits,
  limitAnswer,
  limitHandler,
  limitServer,
} from "./listener.ts";
import { RateLimits } from "./rate-limits.ts";
import { readBody } from "./request-body.ts";
import type { ApiAnswer, Route } from "./route.ts";
import { allRoutes } from "./routes.ts";

/** LIMIT: the longest id or reference, percent-encoded. */
const parameterCharsMax = 1_500;
const preflightSeconds = 7_200;
/** Statuses that make clients repeat a request; see e2b 2.60 and newer. */
const repeatedStatuses: ReadonlySet<number> = new Set([429, 502, 503, 504]);

/** How one listener serves the API. */
export interface ApiOptions {
  readonly host: ApiHost;
  /** False on the Unix socket, whose file permissions say who may connect. */
  readonly requireKey: boolean;
  /** Makes the server; it passes on requests for the API, and serves those for guests itself. */
  readonly createServer: (
    handler: (request: IncomingMessage, response: ServerResponse) => void,
  ) => Server;
  readonly limits?: ListenerLimits | undefined;
}

declare module "fastify" {
  interface FastifyContextConfig {
    route?: Route;
  }
  interface FastifyRequest {
    torpor: RequestContext;
    startedMonoMs: number;
    /** The id of a caller with credentials; otherwise empty. */
    callerId: string;
  }
}

/** Makes the application of one listener; the caller listens with `app.server`. */
export async function createApi(options: ApiOptions): Promise<FastifyInstance> {
  const limits = options.limits ?? defaultLimits;
  const app = Fastify({
    requestTimeout: 0,
    // `limitServer` handles these errors.
    clientErrorHandler: () => undefined,
    frameworkErrors: (cause, request, reply) =>
      sendError(request.raw, reply.raw, toTorporError(cause)),
    routerOptions: { maxParamLength: parameterCharsMax },
    serverFactory: (handler) => {
      const server = options.createServer(limitHandler(handler, limits));
      limitServer(server, limits);
      return server;
    },
  });
  app.setErrorHandler((cause, request, reply) => {
    const error = toTorporError(cause);
    if (error.code === "internal") {
      options.host.log.error("a request failed", { requestId: request.torpor.id, cause: error });
    }
    if (isNotToRepeat(error, request)) void reply.header("should-retry", "false");
    return reply.code(error.status).send(error.toBody());
  });
  app.setNotFoundHandler((request) => {
    const path = request.url.split("?")[0];
    throw new TorporError("route.missing", `there is no ${request.method} ${path}`);
  });
  acceptJson(app, limits);
  app.addHook("onSend", (request, reply, _payload, done) => {
    // The framework closes the connection after a body that it rejects; HTTP/2 has no such header.
    if (isHttp2(request.raw)) reply.removeHeader("connection");
    limitAnswer(reply.raw, limits.answerMs);
    done();
  });
  nameRequests(app, options);
  admitRequests(app, options);
  for (const route of allRoutes(options.host)) addRoute(app, route);
  await app.ready();
  return app;
}

function addRoute(app: FastifyInstance, route: Route): void {
  app.route({
    method: route.method,
    url: route.path.replaceAll(/\{(\w+)\}/g, ":$1"),
    exposeHeadRoute: false,
    config: { route },
    handler: (request, reply) =>
      runInRequest(request.torpor, async () => {
        const asked = {
          params: request.params as Record<string, string>,
          query: request.query as Record<string, string | string[]>,
          body: request.body,
          headers: request.headers,
        };
        if (route.body !== undefined) refuseUnknownFields(asked.body, route.body.schema);
        const keyed = keyedRequestOf(route, request.callerId, asked);
        return send(reply, await route.handle({ ...asked, keyed }));
      }),
  });
}

/** Names each request first, so that refusals carry its id too, and logs it at its end. */
function nameRequests(app: FastifyInstance, { host }: ApiOptions): void {
  app.decorateRequest("startedMonoMs", 0);
  app.decorateRequest("torpor");
  app.addHook("onRequest", (request, reply, done) => {
    request.torpor = newRequestContext(request.headers[requestIdHeader]);
    request.startedMonoMs = performance.now();
    void reply.headers(sharedHeaders(request.torpor.id));
    const underWay = host.requests.begin({
      requestId: request.torpor.id,
      method: request.method,
      route: request.routeOptions.config.route?.path ?? "none",
      startedMonoMs: request.startedMonoMs,
    });
    reply.raw.once("close", () => underWay[Symbol.dispose]());
    done();
  });
  app.addHook("onResponse", (request, reply, done) => {
    request.torpor.answered = true;
    if (request.method !== "GET" || reply.statusCode >= 500) {
      host.log.info("request", {
        requestId: request.torpor.id,
        method: request.method,
        path: request.url.split("?")[0],
        status: reply.statusCode,
        tookMs: Math.round(performance.now() - request.startedMonoMs),
      });
    }
    done();
  });
}

function admitRequests(app: FastifyInstance, { host, requireKey }: ApiOptions): void {
  const rates = new RateLimits(host.policy.requestsMax);
  app.decorateRequest("callerId", "");
  app.addHook("onRequest", (request, reply, done) => {
    if (isPreflight(request)) {
      answerPreflight(request, reply);
      return;
    }
    if (request.method !== "GET" && host.isEnding()) {
      throw new TorporError("daemon.ending", "the daemon is ending and starts nothing more");
    }
    const access = request.routeOptions.config.route?.access ?? "team";
    if (requireKey && access !== "open") {
      request.callerId = identify(host, access, request.headers).id ?? "";
      const verdict = rates.take(request.callerId);
      void reply.headers(verdict.headers);
      if (verdict.refusal !== undefined) throw verdict.refusal;
    }
    done();
  });
}

/** Whether a browser asks for permission before it calls. */
function isPreflight({ method, headers }: FastifyRequest): boolean {
  return method === "OPTIONS" && headers["access-control-request-method"] !== undefined;
}

function answerPreflight({ headers }: FastifyRequest, reply: FastifyReply): void {
  void reply
    .code(204)
    .headers({
      "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE",
      "access-control-allow-headers": headers["access-control-request-headers"] ?? "*",
      "access-control-max-age": String(preflightSeconds),
      vary: "Access-Control-Request-Headers",
    })
    .send();
}

/**
 * Accepts any content type: clients send `Content-Type: application/json` without a body, and
 * bodies without it.
 */
function acceptJson(app: FastifyInstance, { bodyMs }: ListenerLimits): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (request: FastifyRequest) => readBody(request.raw, bodyMs));
}

function send(reply: FastifyReply, { status, body, headers, timings }: ApiAnswer): FastifyReply {
  if (headers !== undefined) void reply.headers(headers);
  if (timings !== undefined) void reply.header("server-timing", formatTimings(timings));
  // An empty 200 must declare its length, or clients wait for JSON in it.
  return body === undefined ? reply.code(status).send() : reply.code(status).send(body);
}

/** Fastify's own errors have a status; an error by the client is reported to the client. */
function toTorporError(cause: unknown): TorporError {
  const status = cause instanceof Error && "statusCode" in cause ? cause.statusCode : undefined;
  const isClientFault = typeof status === "number" && status >= 400 && status < 500;
  return TorporError.from(cause, isClientFault ? "argument.invalid" : "internal");
}

/**
 * Whether to tell E2B's clients not to repeat the request. They repeat these statuses by
 * themselves, creates included, unless told not to. A repeat is useful when the same request can
 * succeed, and safe when it changes nothing twice.
 */
function isNotToRepeat({ status, retry, effect }: TorporError, request: FastifyRequest): boolean {
  if (!repeatedStatuses.has(status)) return false;
  const { route } = request.routeOptions.config;
  const isOnce = route?.onRepeat === undefined || idempotencyHeader in request.headers;
  return retry !== "sameRequest" || (effect !== "none" && !isOnce);
}

function formatTimings(timings: readonly StepTiming[]): string {
  const total = timings.reduce((sum, { tookMs }) => sum + tookMs, 0);
  return [...timings, { step: "total", tookMs: total }]
    .map(({ step, tookMs }) => `${step.replaceAll(" ", "-")};dur=${tookMs.toFixed(1)}`)
    .join(", ");
}
