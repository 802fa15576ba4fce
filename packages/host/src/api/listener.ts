/**
 * The sockets below the API, and limits that keep slow and hung clients from holding them: headers
 * must arrive within 10 s, a body within 10 s more, the client must read an answer within 75 s,
 * bytes it still sends after its answer are read for 10 s, and an idle connection is closed after
 * 620 s, so that a load balancer in front, which waits 600 s, closes it first.
 *
 * Requests for guests share the listener and have only the first and the last of these limits:
 * their streams may last for hours.
 *
 * INVARIANT: nothing here answers a request whose work may have begun. On a connection that fails
 * below HTTP an error is sent only if no answer is due: the client would take the error for that
 * answer.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { constants } from "node:http2";
import type { Socket } from "node:net";
import { TorporError, systemCode } from "@torpor/std";
import { isHttp2 } from "../edge/http2.ts";
import { rawErrorAnswer } from "./error-answer.ts";
import { slowRequest } from "./request-body.ts";

/** The limits of one listener, in milliseconds. */
export interface ListenerLimits {
  readonly headersMs: number;
  readonly bodyMs: number;
  readonly answerMs: number;
  readonly idleMs: number;
}

/** The limits of every listener; only tests use others. */
export const defaultLimits: ListenerLimits = {
  headersMs: 10_000,
  bodyMs: 10_000,
  answerMs: 75_000,
  idleMs: 620_000,
};

/** LIMIT: how long a client has to read that its connection is refused. */
const lingerMs = 1_000;

/** Handles one request, as a listener of Node's `request` event. */
export type Handler = (request: IncomingMessage, response: ServerResponse) => void;

/** A request and its answer that are in progress on one connection of HTTP/1.1. */
interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
}

/** Sets the limits of a server, and handles connections that fail below HTTP. */
export function limitServer(server: Server, limits: ListenerLimits): void {
  server.headersTimeout = limits.headersMs;
  server.keepAliveTimeout = limits.idleMs;
  server.requestTimeout = 0;
  const underWay = new WeakMap<Socket, Set<Exchange>>();
  for (const name of ["request", "checkContinue", "checkExpectation"]) {
    server.prependListener(name, (request: IncomingMessage, response: ServerResponse) => {
      // An error is fatal without a listener, even if no handler serves the request.
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

/** Refuses a connection whose bytes are not HTTP, or whose headers are too long or never end. */
function refuseConnection(cause: Error, socket: Socket): void {
  if (!socket.writable || systemCode(cause) === "ECONNRESET") {
    socket.destroy();
    return;
  }
  // If a connection is closed with unread bytes, the kernel resets it and the answer is lost.
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

/** Lets answers that are due go out; reads nothing more from the client. */
function closeBehind(exchanges: ReadonlySet<Exchange>, cause: Error, socket: Socket): void {
  socket.pause();
  for (const { request, response } of exchanges) {
    // The handler that reads this body waits for bytes that will not come.
    if (!request.complete) request.emit("error", cause);
    response.once("close", () => {
      if (exchanges.size === 0) socket.destroySoon();
    });
  }
}

/**
 * Wraps a handler of requests that are short by nature: limits what clients send after an answer.
 */
export function limitHandler(handler: Handler, limits: ListenerLimits): Handler {
  return (request, response) => {
    limitRest(request, response, limits.bodyMs);
    handler(request, response);
  };
}

/**
 * Discards what a client sends after its answer, for a limited time. It is in the way of the next
 * request, and may never end.
 */
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

/**
 * Ends one stream of HTTP/2, so that the others of its session continue; on HTTP/1 the connection.
 */
function cutOff(request: IncomingMessage): void {
  if (isHttp2(request)) request.stream.close(constants.NGHTTP2_CANCEL);
  else request.socket.destroy();
}

/**
 * Limits how long a client may take to read an answer, from its first byte on. How long the work
 * before it takes is limited elsewhere.
 */
export function limitAnswer(response: ServerResponse, answerMs: number): void {
  if (response.closed || response.destroyed) return;
  const timer = setTimeout(() => response.destroy(), answerMs);
  response.once("close", () => clearTimeout(timer));
}
