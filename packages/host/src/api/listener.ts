/**
 * The sockets below the API, and what keeps slow and hung clients from holding them: headers come within
 * 10 s, the rest of a request within 10 s more, an answer is read within 75 s, and an idle connection is
 * closed after 620 s, so that a load balancer in front, which waits 600 s, closes it first.
 *
 * Requests for guests share the listener and have none of these limits but the first and the last: their
 * streams may last for hours.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { TorporError, systemCode } from "@torpor/std";

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

export type Handler = (request: IncomingMessage, response: ServerResponse) => void;

export function limitServer(server: Server, limits: ListenerLimits): void {
  server.headersTimeout = limits.headersMs;
  server.keepAliveTimeout = limits.idleMs;
  server.requestTimeout = 0;
}

/** A handler for requests that are short by nature. */
export function limitHandler(handler: Handler, limits: ListenerLimits): Handler {
  return (request, response) => {
    limitBody(request, response, limits.bodyMs);
    handler(request, response);
  };
}

function limitBody(request: IncomingMessage, response: ServerResponse, bodyMs: number): void {
  const timer = setTimeout(() => {
    if (!response.headersSent) {
      const error = new TorporError("request.slow", "the request did not arrive in time");
      const text = JSON.stringify(error.toBody());
      response.writeHead(error.status, {
        connection: "close",
        "content-type": "application/json; charset=utf-8",
        "content-length": Buffer.byteLength(text),
      });
      response.end(text);
    }
    // What is in the buffers still goes out.
    request.socket.destroySoon();
  }, bodyMs);
  const stop = (): void => clearTimeout(timer);
  request.once("end", stop);
  request.once("close", stop);
}

/** From the first byte of an answer on: how long the work before it takes is limited elsewhere. */
export function limitAnswer(response: ServerResponse, answerMs: number): void {
  if (response.closed || response.destroyed) return;
  const timer = setTimeout(() => response.destroy(), answerMs);
  response.once("close", () => clearTimeout(timer));
}

/** For what is no HTTP, has headers without end, or never comes to an end of them. */
export function refuseConnection(cause: Error, socket: Socket): void {
  if (!socket.writable || systemCode(cause) === "ECONNRESET") {
    socket.destroy();
    return;
  }
  const isSlow = systemCode(cause) === "ERR_HTTP_REQUEST_TIMEOUT";
  const error = isSlow
    ? new TorporError("request.slow", "the request did not arrive in time")
    : new TorporError("argument.invalid", "the request is not valid HTTP");
  const text = JSON.stringify(error.toBody());
  socket.end(
    `HTTP/1.1 ${error.status} ${isSlow ? "Request Timeout" : "Bad Request"}\r\n` +
      "Connection: close\r\nContent-Type: application/json; charset=utf-8\r\n" +
      `Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
  );
  // Whoever does not even take that in is not waited for.
  socket.destroySoon();
}
