/**
 * The edge: carries a client's request to a port of a sandbox's guest, and the answer back, as they
 * come.
 *
 * A request is for a sandbox when it names one in `E2b-Sandbox-Id` and `E2b-Sandbox-Port`. The
 * routes of the agent that are the host's alone answer 404 from here, before any look-up. Each
 * request gets a connection of its own to the guest, opened through the link of the present run: it
 * is cut when that run ends, and none outlives a pause.
 */
import { type IncomingMessage, type ServerResponse, request as httpRequest } from "node:http";
import { pipeline } from "node:stream/promises";
import { agentPort, hostKeyHeader, privateRoutes } from "@torpor/protocol";
import { TorporError, ignoreFailure } from "@torpor/std";
import type { Sandboxes } from "./sandboxes.ts";

const idHeader = "e2b-sandbox-id";
const portHeader = "e2b-sandbox-port";

/** True when the request is for a guest and not for the daemon. */
export function isForGuest(request: IncomingMessage): boolean {
  return request.headers[idHeader] !== undefined || request.headers[portHeader] !== undefined;
}

export async function forwardToGuest(
  sandboxes: Sandboxes,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const sandboxId = String(request.headers[idHeader] ?? "");
  const port = Number(request.headers[portHeader]);
  if (sandboxId === "" || !Number.isInteger(port) || port < 1 || port > 65_535) {
    refuse(response, 400, { message: `${idHeader} and ${portHeader} go together`, code: 400 });
    return;
  }
  const path = (request.url ?? "/").split("?")[0] ?? "/";
  if (port === agentPort && privateRoutes.includes(path)) {
    refuse(response, 404, { message: "this route is not open to clients", path, code: 404 });
    return;
  }
  try {
    await exchange(sandboxes, sandboxId, port, request, response);
  } catch (cause) {
    const { rawMessage } = TorporError.from(cause, "guest.unreachable");
    refuse(response, 502, { sandboxId, message: rawMessage, port, code: 502 });
  }
}

async function exchange(
  sandboxes: Sandboxes,
  sandboxId: string,
  port: number,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { run, activity } = sandboxes.get(sandboxId);
  using uses = new DisposableStack();
  uses.use(activity.begin());
  if (run === undefined) {
    throw new TorporError("sandbox.wrongState", "The sandbox was not found: it is not running");
  }
  const { [hostKeyHeader]: _hostKey, ...headers } = request.headers;
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const outgoing = httpRequest({
    createConnection: () => run.link.dial(port),
    method: request.method,
    path: request.url,
    headers: { ...headers, connection: "close" },
    setDefaultHeaders: false,
  });
  outgoing.on("response", resolve);
  outgoing.on("error", reject);
  // The only news of an answer that changes protocols.
  outgoing.once("close", () =>
    reject(new TorporError("guest.unreachable", "the guest closed without an answer")),
  );
  response.once("close", () => outgoing.destroy());
  // A guest may answer, and even end, before it has read the whole body.
  void ignoreFailure("the answer says what happened", pipeline(request, outgoing));
  const answer = await promise;
  response.writeHead(answer.statusCode ?? 502, endToEnd(answer.headers));
  response.flushHeaders();
  await ignoreFailure(
    "headers are out: a cut body is all that can be told",
    pipeline(answer, response),
  );
}

/** Without the headers that speak of one connection only (RFC 9110, 7.6.1). */
function endToEnd(headers: IncomingMessage["headers"]): IncomingMessage["headers"] {
  const { connection: _connection, "keep-alive": _keepAlive, ...rest } = headers;
  return rest;
}

function refuse(response: ServerResponse, status: number, body: object): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const text = JSON.stringify(body);
  response.writeHead(status, {
    "content-type": "application/json; charset=utf-8",
    "content-length": Buffer.byteLength(text),
  });
  response.end(text);
}
