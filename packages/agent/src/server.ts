/**
 * The HTTP server of the agent: routes requests, and refuses some before that.
 *
 * Plain routes and RPCs share one port. Refusals, in this order: a closed gate answers 503 to all
 * but health and the host's routes; a missing or wrong token answers 401 to all but those and
 * `/files`, which checks signatures itself. Bodies of refusals are `{code, message}`; for an RPC,
 * `code` is the RPC code as a word, because its client reads that.
 *
 * LIMIT: streams may live for hours, so a request has no time limit; headers have one, and so have
 * idle connections.
 */
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import {
  Filesystem,
  Process,
  accessTokenHeader,
  healthRoute,
  monotonicHeader,
  privateRoutes,
} from "@torpor/protocol";
import { serveCompose } from "./compose-route.ts";
import { type FilesContext, serveFiles } from "./files-route.ts";
import type { FilesystemService } from "./filesystem-service.ts";
import type { Gate } from "./gate.ts";
import { sendError, sendJson } from "./http-answer.ts";
import type { MetricsReader } from "./metrics.ts";
import { monotonicMs } from "./monotonic-clock.ts";
import { type PrivateRoutesContext, servePrivateRoute } from "./private-routes.ts";
import type { ProcessService } from "./process-service.ts";
import { type RpcHandler, createRpcHandler } from "./rpc-handler.ts";

const headersTimeoutMs = 10_000;
/** Longer than the 600 s that load balancers wait, so that the peer closes first. */
const idleTimeoutMs = 640_000;
const headerBytesMax = 32 << 10;
const preflightSeconds = 7200;

/** The parts of the agent that requests use. */
export interface ServerContext extends FilesContext, PrivateRoutesContext {
  readonly gate: Gate;
  readonly metrics: MetricsReader;
  readonly processes: ProcessService;
  readonly files: FilesystemService;
}

/**
 * Makes the server without a handler: the handler needs parts that need the server, so
 * `serveRequests` adds it.
 */
export function createAgentServer(): Server {
  return createServer({
    headersTimeout: headersTimeoutMs,
    keepAliveTimeout: idleTimeoutMs,
    requestTimeout: 0,
    maxHeaderSize: headerBytesMax,
  });
}

/** Adds the handler of all requests but CONNECT (tunnel.ts). */
export function serveRequests(server: Server, context: ServerContext): void {
  const serveRpc = createRpcHandler((router) => {
    router.service(Process, context.processes);
    router.service(Filesystem, context.files);
  }, context.log);
  server.on("request", (request, response) => {
    route(request, response, context, serveRpc).catch((cause: unknown) => {
      context.log.error("a request failed", { url: request.url, cause });
      if (response.headersSent) response.destroy();
      else sendError(response, 500, "internal error");
    });
  });
}

async function route(
  request: IncomingMessage,
  response: ServerResponse,
  context: ServerContext,
  serveRpc: RpcHandler,
): Promise<void> {
  const { gate, identity, metrics } = context;
  const [path, search] = splitOnce(request.url ?? "", "?");
  if (path === healthRoute) {
    allowOrigins(response);
    response.writeHead(204, {
      "Cache-Control": "no-store",
      [monotonicHeader]: monotonicMs().toFixed(3),
    });
    response.end();
    return;
  }
  if (privateRoutes.includes(path)) {
    await servePrivateRoute(path, request, response, context);
    return;
  }
  allowOrigins(response);
  if (!gate.isOpen) {
    response.setHeader("Connection", "close");
    refuse(request, response, 503, "unavailable", "the sandbox is being paused or resumed");
    return;
  }
  if (request.method === "OPTIONS") {
    preflight(request, response);
    return;
  }
  if (path === "/files") {
    await serveFiles(request, response, new URLSearchParams(search), context);
    return;
  }
  const token = request.headers[accessTokenHeader];
  if (!identity.acceptsToken(typeof token === "string" ? token : undefined)) {
    refuse(request, response, 401, "unauthenticated", "invalid or missing access token");
    return;
  }
  if (path === "/metrics" && request.method === "GET") {
    sendJson(response, 200, await metrics.read());
  } else if (path === "/envs" && request.method === "GET") {
    sendJson(response, 200, identity.environment());
  } else if (path === "/files/compose" && request.method === "POST") {
    await serveCompose(request, response, context);
  } else if (!serveRpc(path, request, response)) {
    sendError(response, 404, `no such route: ${request.method} ${path}`);
  }
}

function refuse(
  request: IncomingMessage,
  response: ServerResponse,
  status: number,
  rpcCode: string,
  message: string,
): void {
  const isRpc = /^application\/(connect\+)?(json|proto)/.test(
    request.headers["content-type"] ?? "",
  );
  sendJson(response, status, { code: isRpc ? rpcCode : status, message });
}

function allowOrigins(response: ServerResponse): void {
  response.setHeader("Access-Control-Allow-Origin", "*");
  response.setHeader(
    "Access-Control-Expose-Headers",
    "Connect-Protocol-Version, Connect-Timeout-Ms, Content-Disposition, Content-Encoding, " +
      "Content-Range, Grpc-Message, Grpc-Status, Grpc-Status-Details-Bin, Location, " +
      "Torpor-Output-Offset",
  );
}

function preflight(request: IncomingMessage, response: ServerResponse): void {
  const asked = request.headers["access-control-request-headers"];
  response.writeHead(204, {
    "Access-Control-Allow-Methods": "HEAD, GET, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": asked ?? "*",
    "Access-Control-Max-Age": String(preflightSeconds),
    Vary: "Access-Control-Request-Headers",
  });
  response.end();
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at === -1 ? [text, ""] : [text.slice(0, at), text.slice(at + separator.length)];
}
