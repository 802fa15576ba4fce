/**
 * What becomes of headers on their way through the edge. Pure.
 *
 * All pass as they came, in their order, but those that speak of one connection only (RFC 9110,
 * 7.6.1), those that are for the edge alone, and those that tell the guest who asked.
 */
import type { IncomingHttpHeaders, IncomingMessage, OutgoingHttpHeaders } from "node:http";
import { hostKeyHeader } from "@torpor/protocol";
import { trafficTokenHeader } from "./ingress.ts";
import { hostOf } from "./target.ts";

const hopByHop = new Set([
  "connection",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
]);
/**
 * What `Connection` cannot name away: by these a message is framed, led and understood, and a sender
 * must not list what is meant for the last recipient (RFC 9110, 7.6.1).
 */
const neverNamed = new Set([
  ...["host", "content-length", "transfer-encoding", "trailer", "te", "upgrade", "expect"],
  ...["content-encoding", "content-type", "content-range", "range", "cookie", "set-cookie"],
  ...["authorization", "location"],
]);
const ofTheEdge = new Set<string>([hostKeyHeader, trafficTokenHeader]);
const ofTheClient = new Set(["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]);

export interface RequestHeadersOptions {
  /** What the guest sees as host, if not what the client used. */
  readonly maskedHost: string | undefined;
  /** The protocol to change to, if the client asked for one and may. */
  readonly upgrade: string | undefined;
  readonly hasBody: boolean;
}

/** Names and values in turn, as Node's client takes them. */
export function requestHeaders(
  request: IncomingMessage,
  { maskedHost, upgrade, hasBody }: RequestHeadersOptions,
): string[] {
  const { headers, rawHeaders } = request;
  const dropped = namedByConnection(headers);
  const host = hostOf(headers);
  const result = ["Host", maskedHost ?? host];
  const cookies: string[] = [];
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const raw = rawHeaders[index] ?? "";
    const value = rawHeaders[index + 1] ?? "";
    const name = raw.toLowerCase();
    if (name === "host" || raw.startsWith(":") || hopByHop.has(name)) continue;
    if (ofTheEdge.has(name) || ofTheClient.has(name) || dropped?.has(name) === true) continue;
    // HTTP/2 splits what HTTP/1 wants in one line (RFC 9113, 8.2.3).
    if (name === "cookie") cookies.push(value);
    else result.push(raw, value);
  }
  if (cookies.length > 0) result.push("Cookie", cookies.join("; "));
  if (upgrade === undefined) result.push("Connection", "keep-alive");
  else result.push("Connection", "Upgrade", "Upgrade", upgrade);
  if (headers["content-length"] === undefined) {
    if (hasBody) result.push("Transfer-Encoding", "chunked");
    else if (request.method !== "GET" && request.method !== "HEAD" && upgrade === undefined) {
      result.push("Content-Length", "0");
    }
  }
  result.push(...forwardedHeaders(request, host));
  return result;
}

/** Names and values in turn, for a client that speaks HTTP/1. */
export function answerHeaders({ headers, rawHeaders }: IncomingMessage): string[] {
  const dropped = namedByConnection(headers);
  const result: string[] = [];
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const raw = rawHeaders[index] ?? "";
    const name = raw.toLowerCase();
    if (hopByHop.has(name) || dropped?.has(name) === true) continue;
    result.push(raw, rawHeaders[index + 1] ?? "");
  }
  return result;
}

/** For a client that speaks HTTP/2, where names are in small letters. */
export function http2AnswerHeaders({
  headers,
  headersDistinct,
}: IncomingMessage): OutgoingHttpHeaders {
  const dropped = namedByConnection(headers);
  return Object.fromEntries(
    Object.entries(headersDistinct).filter(
      ([name]) => !hopByHop.has(name) && dropped?.has(name) !== true,
    ),
  );
}

/**
 * Who asked, by which name and how. A proxy in front of the edge, on the same machine, has said so
 * already; others are not believed.
 */
function forwardedHeaders({ headers, socket }: IncomingMessage, host: string): string[] {
  const address = socket.remoteAddress;
  const isLocal = address === undefined || isLoopback(address);
  const said = (name: string): string | undefined => {
    const value = isLocal ? headers[name] : undefined;
    return typeof value === "string" ? value : undefined;
  };
  const before = said("x-forwarded-for");
  const chain = [before, address].filter((one) => one !== undefined);
  const isSecure = headers[":scheme"] === "https" || "encrypted" in socket;
  return [
    ...(chain.length === 0 ? [] : ["X-Forwarded-For", chain.join(", ")]),
    "X-Forwarded-Host",
    said("x-forwarded-host") ?? host,
    "X-Forwarded-Proto",
    said("x-forwarded-proto") ?? (isSecure ? "https" : "http"),
  ];
}

function isLoopback(address: string): boolean {
  return address === "::1" || /^(?:::ffff:)?127\./.test(address);
}

/** Names that `Connection` lists as being of this connection only; undefined when there are none. */
function namedByConnection({ connection }: IncomingHttpHeaders): ReadonlySet<string> | undefined {
  if (connection === undefined || /^(?:keep-alive|close|upgrade)$/i.test(connection))
    return undefined;
  const named = connection.split(",").map((name) => name.trim().toLowerCase());
  return new Set(named.filter((name) => !neverNamed.has(name)));
}
