/**
 * The edge's own answers to requests that do not reach a guest.
 *
 * Programs get JSON in the form of the wire, people at a browser get a page. Scripts of any origin
 * may read either, and a preflight is always allowed: otherwise a browser would show its script
 * only "network error", not the answer that says what is wrong.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { errorPage } from "./error-page.ts";

/**
 * An answer of the edge. The JSON has all fields but `retryAfterSeconds` and `page`, with `status`
 * as `code`.
 */
export interface Refusal {
  readonly status: number;
  readonly message: string;
  readonly sandboxId?: string;
  readonly port?: number;
  readonly path?: string;
  readonly connectionLimit?: number;
  /** Set when there is no room: the answer says when to retry, and the connection ends too. */
  readonly retryAfterSeconds?: number;
  /** The text for people, where `message` is worded for programs. */
  readonly page?: RefusalPage | undefined;
}

/** The text of an error page. */
export interface RefusalPage {
  readonly title: string;
  readonly advice: string;
}

const preflightSeconds = 86_400;

/** Answers a request whose answer has not begun. */
export function sendRefusal(
  request: IncomingMessage,
  response: ServerResponse,
  refusal: Refusal,
): void {
  if (isPreflight(request)) {
    sendPreflight(request, response);
    return;
  }
  const { status, retryAfterSeconds, page: _forPeople, ...rest } = refusal;
  const isPage = isForBrowser(request);
  const text = isPage ? errorPage(refusal) : JSON.stringify({ ...rest, code: status });
  if (retryAfterSeconds !== undefined) {
    response.shouldKeepAlive = false;
    response.setHeader("Retry-After", retryAfterSeconds);
  }
  response.writeHead(status, {
    "Content-Type": `${isPage ? "text/html" : "application/json"}; charset=utf-8`,
    "Content-Length": Buffer.byteLength(text),
    "Cache-Control": "no-store",
    "Access-Control-Allow-Origin": "*",
    // A missing sandbox stays missing, and a request that broke off may have had its effect.
    ...(status === 502 ? { "Should-Retry": "false" } : {}),
  });
  response.end(request.method === "HEAD" ? undefined : text);
  request.resume(); // what is left of the body is in the way of the next request
}

function isPreflight({ method, headers }: IncomingMessage): boolean {
  return method === "OPTIONS" && headers["access-control-request-method"] !== undefined;
}

function sendPreflight({ headers }: IncomingMessage, response: ServerResponse): void {
  response.writeHead(204, {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": headers["access-control-request-method"] ?? "*",
    "Access-Control-Allow-Headers": headers["access-control-request-headers"] ?? "*",
    "Access-Control-Max-Age": String(preflightSeconds),
    Vary: "Access-Control-Request-Method, Access-Control-Request-Headers",
  });
  response.end();
}

/** Whether a person follows a link, as opposed to a program or a script of a page. */
function isForBrowser({ headers }: IncomingMessage): boolean {
  const mode = headers["sec-fetch-mode"];
  return (
    /\bMozilla\//.test(headers["user-agent"] ?? "") &&
    /\btext\/html\b/.test(headers.accept ?? "") &&
    (mode === undefined || mode === "navigate") &&
    headers["x-requested-with"] === undefined
  );
}
