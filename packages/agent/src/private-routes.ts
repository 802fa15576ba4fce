/**
 * The host's routes: init, prepare, cancel. lifecycle.ts of the protocol has their contract.
 *
 * SAFETY: each needs the host key once one is installed. Before the first init there is none, and
 * only init is accepted: no user code has run by then, so the caller can only be the host.
 *
 * Failures are Torpor's error bodies: code, message, effect, advice.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { setImmediate } from "node:timers/promises";
import {
  type CancelResponse,
  cancelRoute,
  hostKeyHeader,
  initBodyBytesMax,
  initRoute,
  parseInitRequest,
  parsePrepareRequest,
  prepareRoute,
} from "@torpor/protocol";
import { type Logger, TorporError, parseJson } from "@torpor/std";
import { readBody, sendJson } from "./http-answer.ts";
import type { Identity } from "./identity.ts";
import { monotonicMs } from "./monotonic-clock.ts";
import type { Quiescer } from "./quiesce.ts";
import type { Waker } from "./wake.ts";

/** LIMIT: the host sends one word. */
const prepareBodyBytesMax = 1024;

/** The parts of the agent that the host's routes use. */
export interface PrivateRoutesContext {
  readonly identity: Identity;
  readonly quiescer: Quiescer;
  readonly waker: Waker;
  readonly log: Logger;
}

/** Serves one call of the host. Answers its failures itself. */
export async function servePrivateRoute(
  route: string,
  request: IncomingMessage,
  response: ServerResponse,
  context: PrivateRoutesContext,
): Promise<void> {
  try {
    if (request.method !== "POST") {
      throw new TorporError("argument.invalid", `${route} wants POST`);
    }
    if (route === initRoute) await init(request, response, context);
    else if (route === prepareRoute) await prepare(request, response, context);
    else if (route === cancelRoute) await cancel(request, response, context);
  } catch (cause) {
    const error = TorporError.from(cause, "internal");
    context.log.error("a call of the host failed", { route, cause });
    sendJson(response, error.status, error.toBody());
  }
}

async function init(
  request: IncomingMessage,
  response: ServerResponse,
  { identity, waker }: PrivateRoutesContext,
): Promise<void> {
  const arrivedMonoMs = monotonicMs();
  const key = givenKey(request);
  // Checked before the body is read, which may be large.
  if (!identity.acceptsRepeatedInit(key)) throw wrongKey();
  const body = await readBody(request, initBodyBytesMax);
  const initRequest = parseInitRequest(parseJson(body.toString("utf8"), "init"));
  if (!waker.isRepeat(initRequest.generation) && !identity.acceptsHostKey(key)) throw wrongKey();
  const answer = await waker.wake({ request: initRequest, arrivedMonoMs, carrier: request.socket });
  sendJson(response, 200, answer);
}

async function prepare(
  request: IncomingMessage,
  response: ServerResponse,
  { identity, quiescer }: PrivateRoutesContext,
): Promise<void> {
  demandKey(request, identity);
  const body = await readBody(request, prepareBodyBytesMax);
  const { reason } = parsePrepareRequest(parseJson(body.toString("utf8"), "prepare"));
  // The agent may have stood still for a long time: if the host gave up in the meantime, nothing is
  // prepared.
  if (await isAbandoned(request)) return;
  const answer = await quiescer.prepare(reason);
  // A host that gave up has sent its cancel already, perhaps before there was anything to undo.
  if (await isAbandoned(request)) {
    await quiescer.cancel();
    return;
  }
  // The connection of this call must not outlive the snapshot either.
  response.writeHead(200, {
    "Content-Type": "application/json",
    "Content-Length": answer.length,
    Connection: "close",
  });
  response.end(answer);
}

/** Whether the caller has disconnected, as far as the kernel knows by now. */
async function isAbandoned({ socket }: IncomingMessage): Promise<boolean> {
  // The end of a connection is read one turn after the last of its data.
  for (let turn = 0; turn < 2; turn += 1) await setImmediate();
  return socket.readableEnded || socket.destroyed || !socket.writable;
}

async function cancel(
  request: IncomingMessage,
  response: ServerResponse,
  { identity, quiescer }: PrivateRoutesContext,
): Promise<void> {
  demandKey(request, identity);
  const answer: CancelResponse = { canceled: await quiescer.cancel() };
  sendJson(response, 200, answer);
}

/** @throws auth.missing, also before the first init. */
function demandKey(request: IncomingMessage, identity: Identity): void {
  if (identity.current.hostKey === null || !identity.acceptsHostKey(givenKey(request))) {
    throw wrongKey();
  }
}

function givenKey(request: IncomingMessage): string | undefined {
  const key = request.headers[hostKeyHeader];
  return typeof key === "string" ? key : undefined;
}

function wrongKey(): TorporError {
  return new TorporError("auth.missing", "wrong host key", {
    advice: `Send the key of the last init in ${hostKeyHeader}.`,
  });
}
