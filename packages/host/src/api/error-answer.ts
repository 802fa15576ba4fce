/** An error as the API tells it, in one form wherever it is noticed. */
import { type IncomingMessage, STATUS_CODES, type ServerResponse } from "node:http";
import type { TorporError } from "@torpor/std";
import { newRequestContext, requestIdHeader } from "../request-context.ts";

const exposedHeaders =
  "RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, Server-Timing, " +
  "Should-Retry, X-Next-Token, X-Request-Id, X-Total-Running";

/** Of every answer: which request it is for, and that scripts of any origin may read it. */
export function sharedHeaders(requestId: string): Readonly<Record<string, string>> {
  return {
    [requestIdHeader]: requestId,
    "access-control-allow-origin": "*",
    "access-control-expose-headers": exposedHeaders,
  };
}

/** For a request that reaches no route. */
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

/** For a connection on which there is no request to answer; it is the last one there. */
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
