/**
 * The sockets below the API, and what keeps slow and hung clients from holding them: headers come within
 * 10 s, a body within 10 s more, an answer is read within 75 s, what a client still sends behind its
 * answer is taken for 10 s, and an idle connection is closed after 620 s, so that a load balancer in
 * front, which waits 600 s, closes it first.
 *
 * Requests for guests share the listener and have none of these limits but the first and the last: their
 * streams may last for hours.
 *
 * INVARIANT: nothing here answers for a request whose work may have begun. A connection that fails below
 * HTTP is told why only if no answer is due on it: the client would take the refusal for that answer.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { constants } from "node:http2";
import type { Socket } from "node:net";
import { TorporError, systemCode } from "@torpor/std";
import { isHttp2 } from "../edge/http2.ts";
import { rawErrorAnswer } from "./error-answer.ts";
import { slowRequest } from "./request-body.ts";

export interface ListenerLimits {
  readonly headersMs: number;
  readonly bodyMs: number;
  readonly answerMs: number;
  readonly idleMs: number;
}

export const defaultLimits: ListenerLimits = {
  headersMs: 10_000,
  bodyMs: 10_000,
  answerMs: 75_000,
  idleMs: 620_000,
};

/** LIMIT: for a client to take in that its connection is refused. */
const lingerMs = 1_000;

export type Handler = (request: IncomingMessage, response: ServerResponse) => void;

/** What is under way on one connection of HTTP/1.1. */
interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
}

/** Sets the limits of a server, and what becomes of connections that fail below HTTP. */
export function limitServer(server: Server, limits: ListenerLimits): void {
  server.headersTimeout = limits.headersMs;
  server.keepAliveTimeout = limits.idleMs;
  server.requestTimeout = 0;
  const underWay = new WeakMap<Socket, Set<Exchange>>();
  for (const name of ["request", "checkContinue", "checkExpectation"]) {
    server.prependListener(name, (request: IncomingMessage, response: ServerResponse) => {
      // Errors are told to whoever listens; nobody has to, also when a request is served by nobody.
      request.on("error", ignore);
      response.on("error", ignore);
      if (isHttp2(request)) return;
      const exchanges = underWay.get(request.socket) ?? new Set();
      underWay.set(request.socket, exchanges);
      const exchange = { request, response };
      exchanges.add(exchange);
      response.once("close", () => exchanges.delete(exchange));
    });
  }
  server.on("clientError", (cause, duplex) => {
    const socket = duplex as Socket;
    const exchanges = underWay.get(socket);
    if (exchanges === undefined || exchanges.size === 0) refuseConnection(cause, socket);
    else closeBehind(exchanges, cause, socket);
  });
}

function ignore(): void {}

/** For what is no HTTP, has headers without end, or never comes to an end of them. */
function refuseConnection(cause: Error, socket: Socket): void {
  if (!socket.writable || systemCode(cause) === "ECONNRESET") {
    socket.destroy();
    return;
  }
  // A connection that is closed over unread bytes is reset, and the answer lost with it.
  socket.removeAllListeners("data").on("data", () => undefined);
  socket.end(rawErrorAnswer(connectionError(cause)));
  const timer = setTimeout(() => socket.destroy(), lingerMs);
  socket.once("close", () => clearTimeout(timer));
}

function connectionError(cause: Error): TorporError {
  const code = systemCode(cause);
  if (code === "ERR_HTTP_REQUEST_TIMEOUT") return slowRequest();
  if (code === "HPE_HEADER_OVERFLOW") {
    return new TorporError("request.headTooLarge", "the headers of the request are too large");
  }
  if (code === "HPE_CHUNK_EXTENSIONS_OVERFLOW") {
    return new TorporError("request.tooLarge", "the chunk extensions of the body are too large");
  }
  return new TorporError("argument.invalid", "the request is not valid HTTP");
}

/** Answers that are due still go out; nothing more is read from the client. */
function closeBehind(exchanges: ReadonlySet<Exchange>, cause: Error, socket: Socket): void {
  socket.pause();
  for (const { request, response } of exchanges) {
    // Whoever reads its body waits for bytes that no longer come.
    if (!request.complete) request.emit("error", cause);
    response.once("close", () => {
      if (exchanges.size === 0) socket.destroySoon();
    });
  }
}

/** A handler for requests that are short by nature. */
export function limitHandler(handler: Handler, limits: ListenerLimits): Handler {
  return (request, response) => {
    limitRest(request, response, limits.bodyMs);
    handler(request, response);
  };
}

/** What a client sends behind its answer is in the way of its next request, and may never end. */
function limitRest(request: IncomingMessage, response: ServerResponse, restMs: number): void {
  const answer = isHttp2(request) ? request.stream : response;
  answer.once("finish", () => {
    const isWhole = isHttp2(request)
      ? request.stream.readableEnded || request.stream.endAfterHeaders
      : request.complete;
    if (isWhole) return;
    request.resume();
    const timer = setTimeout(() => cutOff(request), restMs);
    const stop = (): void => clearTimeout(timer);
    request.once("end", stop).once("close", stop);
  });
}

/** One stream of HTTP/2, so that the others of its session go on; else the connection. */
function cutOff(request: IncomingMessage): void {
  if (isHttp2(request)) request.stream.close(constants.NGHTTP2_CANCEL);
  else request.socket.destroy();
}

/** From the first byte of an answer on: how long the work before it takes is limited elsewhere. */
export function limitAnswer(response: ServerResponse, answerMs: number): void {
  if (response.closed || response.destroyed) return;
  const timer = setTimeout(() => response.destroy(), answerMs);
  response.once("close", () => clearTimeout(timer));
}
