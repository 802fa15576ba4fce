/**
 * The edge's own answers: what a client is told that does not reach a guest.
 *
 * Programs get JSON in the wire's form, people before a browser a page. Scripts of any origin may read
 * either, and a preflight is answered with yes: a browser would show its script nothing else than
 * "network error" instead of the answer that says what is wrong.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { errorPage } from "./error-page.ts";

export interface Refusal {
  readonly status: number;
  readonly message: string;
  readonly sandboxId?: string;
  readonly port?: number;
  readonly path?: string;
  readonly connectionLimit?: number;
  /** Of one that is refused for want of room: its connection ends, too. */
  readonly retryAfterSeconds?: number;
  /** For people, where the message is in words that programs look for. */
  readonly page?: RefusalPage | undefined;
}

export interface RefusalPage {
  readonly title: string;
  readonly advice: string;
}

const preflightSeconds = 86_400;

/** For a request that no answer has been begun to. */
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
    // What is not there stays so, and what broke off may have had its effect.
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

/** A person who follows a link, and not a program or a script of a page. */
function isForBrowser({ headers }: IncomingMessage): boolean {
  const mode = headers["sec-fetch-mode"];
  return (
    /\bMozilla\//.test(headers["user-agent"] ?? "") &&
    /\btext\/html\b/.test(headers.accept ?? "") &&
    (mode === undefined || mode === "navigate") &&
    headers["x-requested-with"] === undefined
  );
}
