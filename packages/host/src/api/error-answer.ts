/** Errors as the API answers them, in one form wherever they are noticed. */
import { type IncomingMessage, STATUS_CODES, type ServerResponse } from "node:http";
import type { TorporError } from "@torpor/std";
import { newRequestContext, requestIdHeader } from "../request-context.ts";

const exposedHeaders =
  "RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, Server-Timing, " +
  "Should-Retry, X-Next-Token, X-Request-Id, X-Total-Running";

/**
 * Headers of every answer: the request's id, and permission for scripts of any origin to read it.
 */
export function sharedHeaders(requestId: string): Readonly<Record<string, string>> {
  return {
    [requestIdHeader]: requestId,
    "access-control-allow-origin": "*",
    "access-control-expose-headers": exposedHeaders,
  };
}

/** Answers a request that reaches no route. */
export function sendError(
  request: IncomingMessage,
  response: ServerResponse,
  error: TorporError,
): void {
  const text = JSON.stringify(error.toBody());
  response.writeHead(error.status, {
    ...bodyHeaders(text),
    ...sharedHeaders(newRequestContext(request.headers[requestIdHeader]).id),
  });
  response.end(text);
}

/**
 * The whole HTTP/1.1 answer as text, for a connection without a request to answer. It is the last
 * answer there.
 */
export function rawErrorAnswer(error: TorporError): string {
  const text = JSON.stringify(error.toBody());
  const headers = {
    connection: "close",
    ...bodyHeaders(text),
    ...sharedHeaders(newRequestContext(undefined).id),
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status] ?? ""}\r\n${lines.join("")}\r\n${text}`;
}

function bodyHeaders(text: string): Readonly<Record<string, string>> {
  return {
    "content-type": "application/json; charset=utf-8",
    "content-length": String(Buffer.byteLength(text)),
  };
}
