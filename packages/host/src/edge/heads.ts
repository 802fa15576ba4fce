/**
 * What becomes of the heads and trailers of messages on their way through the edge. Pure, and all that is
 * relayed passes here before anything is set on a request or an answer, so that neither can throw.
 *
 * Fields pass as they came, in their order, but those that speak of one connection only (RFC 9110, 7.6.1),
 * those that are for the edge alone, and those that tell the guest who asked. How a message is framed is
 * never relayed: it is said again, by the side that sends it (framing.ts).
 */
import { type IncomingMessage, METHODS, type OutgoingHttpHeaders, STATUS_CODES } from "node:http";
import { hostKeyHeader } from "@torpor/protocol";
import type { AnswerHead } from "./answer-parser.ts";
import { type Framing, declaredFraming, noBody } from "./framing.ts";
import { isHttp2 } from "./http2.ts";
import {
  type Fields,
  SyntaxFault,
  fieldsOf,
  isFieldValue,
  isToken,
  listOf,
  valueOf,
  valuesOf,
} from "./http-syntax.ts";
import { trafficTokenHeader } from "./ingress.ts";

const hopByHop = new Set([
  ...["connection", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization"],
  ...["proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"],
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
/** Said again by the edge. Many a server takes "_" for "-", and would read what was not looked at. */
const replaced = new Set([...hopByHop, ...ofTheEdge, ...ofTheClient, "host", "content-length"]);
/** What trailers must not hold (RFC 9110, 6.5.1), as a reader might merge them into the head. */
const notTrailers = new Set([
  ...[...hopByHop, ...neverNamed, ...ofTheEdge, ...ofTheClient],
  ...["age", "cache-control", "date", "expires", "max-forwards", "pragma", "retry-after", "vary"],
]);
/** Fields of which HTTP/2 as Node sends it allows one. The first of several is taken, as Node reads them. */
const singleInHttp2 = new Set([
  ...["access-control-allow-credentials", "access-control-max-age", "age", "authorization"],
  ...["access-control-request-method", "content-encoding", "content-language", "content-length"],
  ...["content-location", "content-md5", "content-range", "content-type", "date", "dnt", "etag"],
  ...["expires", "from", "host", "if-match", "if-modified-since", "if-none-match", "if-range"],
  ...["if-unmodified-since", "last-modified", "location", "max-forwards", "range", "referer"],
  ...["proxy-authorization", "retry-after", "tk", "upgrade-insecure-requests", "user-agent"],
  ...["x-content-type-options"],
]);
const methods = new Set(METHODS);
/** A host and a port, or nothing. */
const hostPattern = /^[A-Za-z0-9._~!$&'()*+;=:%[\]-]*$/;
const pathPattern = /^[\x21-\x7e\x80-\xff]+$/;

/** The head of a client's request, known to be sound. */
export interface RequestHead {
  readonly method: string;
  /** Path and query, or `*`. */
  readonly path: string;
  readonly host: string;
  readonly fields: Fields;
  readonly framing: Framing;
}

/** @throws SyntaxFault when it could be read in more than one way, or not at all */
export function requestHead(request: IncomingMessage): RequestHead {
  const { method = "", url = "" } = request;
  const fields = fieldsOf(request.rawHeaders);
  if (!methods.has(method)) throw new SyntaxFault("its method is not known");
  for (let index = 0; index < fields.names.length; index += 1) {
    const name = fields.names[index] ?? "";
    if (name.startsWith(":") && isHttp2(request)) continue;
    if (!isToken(name) || !isFieldValue(fields.pairs[2 * index + 1] ?? "")) {
      throw new SyntaxFault("a header has a forbidden character");
    }
  }
  const host = soleHost(request, fields);
  return {
    method,
    path: pathOf(method, url, host),
    host,
    fields,
    framing: requestFraming(request, fields),
  };
}

/** Of HTTP/2 as of HTTP/1; with the port, if it was given. */
function soleHost(request: IncomingMessage, fields: Fields): string {
  const hosts = valuesOf(fields, "host");
  if (hosts.length > 1) throw new SyntaxFault("it has more than one Host");
  const authority = isHttp2(request) ? valueOf(fields, ":authority") : undefined;
  const host = authority ?? hosts[0] ?? "";
  if (!hostPattern.test(host)) throw new SyntaxFault("its Host is no host");
  return host;
}

/** Proxies are asked with whole URLs, which must name the same host (RFC 9112, 3.2.2). */
function pathOf(method: string, url: string, host: string): string {
  if (url === "*" && method === "OPTIONS") return url;
  if (url.startsWith("/") && pathPattern.test(url)) return url;
  const parsed = /^https?:/i.test(url) ? URL.parse(url) : null;
  if (parsed === null) throw new SyntaxFault("its URL has no path");
  if (parsed.host !== (URL.parse(`${parsed.protocol}//${host}`)?.host ?? "")) {
    throw new SyntaxFault("its URL and its Host differ");
  }
  return `${parsed.pathname}${parsed.search}`;
}

function requestFraming(request: IncomingMessage, fields: Fields): Framing {
  if (!isHttp2(request)) return declaredFraming(fields, request.httpVersion);
  const declared = declaredFraming(fields, "2.0");
  if (request.stream.endAfterHeaders) return noBody;
  return declared.kind === "none" ? { kind: "chunked" } : declared;
}

export interface RequestFieldsOptions {
  /** What the guest sees as host, if not what the client used. */
  readonly maskedHost: string | undefined;
  /** The protocol to change to, if the client asked for one and may. */
  readonly upgrade: string | undefined;
  readonly client: Client;
}

/** Who asks. */
export interface Client {
  /** Undefined on a Unix socket. */
  readonly address: string | undefined;
  readonly isSecure: boolean;
}

/** Names and values in turn, as they are sent to a guest's server of HTTP/1. */
export function requestFields(head: RequestHead, options: RequestFieldsOptions): string[] {
  const { maskedHost, upgrade, client } = options;
  const result = ["Host", maskedHost ?? head.host];
  relayRequestFields(head, result);
  if (upgrade === undefined) result.push("Connection", "keep-alive");
  else result.push("Connection", "Upgrade", "Upgrade", upgrade);
  const { framing, method } = head;
  if (framing.kind === "chunked") result.push("Transfer-Encoding", "chunked");
  else if (framing.kind === "length") result.push("Content-Length", String(framing.bytes));
  else if (method !== "GET" && method !== "HEAD" && upgrade === undefined) {
    result.push("Content-Length", "0");
  }
  result.push(...forwardedFields(head, client));
  return result;
}

/** The same for a guest's server of HTTP/2, which frames by itself. */
export function http2RequestFields(
  head: RequestHead,
  options: Omit<RequestFieldsOptions, "upgrade">,
): OutgoingHttpHeaders {
  const { framing, method, path } = head;
  const relayed: string[] = [];
  relayRequestFields(head, relayed);
  relayed.push(...forwardedFields(head, options.client));
  if (framing.kind === "length") relayed.push("content-length", String(framing.bytes));
  return {
    ...http2Fields(relayed),
    te: "trailers",
    ":method": method,
    ":scheme": "http",
    ":authority": options.maskedHost ?? head.host,
    ":path": path,
  };
}

/** What passes as it came. */
function relayRequestFields({ fields }: RequestHead, result: string[]): void {
  const { names, pairs } = fields;
  const dropped = namedByConnection(fields);
  const cookies: string[] = [];
  for (let index = 0; index < names.length; index += 1) {
    const name = names[index] ?? "";
    const value = pairs[2 * index + 1] ?? "";
    const read = name.includes("_") ? name.replaceAll("_", "-") : name;
    if (replaced.has(read) || dropped?.has(name) === true || name.startsWith(":")) continue;
    // HTTP/2 splits what HTTP/1 wants in one line (RFC 9113, 8.2.3).
    if (name === "cookie") cookies.push(value);
    else result.push(pairs[2 * index] ?? "", value);
  }
  if (cookies.length > 0) result.push("Cookie", cookies.join("; "));
}

/**
 * Who asked, by which name and how. A proxy in front of the edge, on the same machine, has said so
 * already; others are not believed.
 */
function forwardedFields({ fields, host }: RequestHead, client: Client): string[] {
  const { address, isSecure } = client;
  const isLocal = address === undefined || isLoopback(address);
  const said = (name: string): string | undefined =>
    isLocal && fields.names.includes(name) ? valuesOf(fields, name).join(", ") : undefined;
  const before = said("x-forwarded-for");
  const chain = [before, address].filter((one) => one !== undefined);
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

/** A guest's reason phrase, or the usual one where it could not be sent. */
export function reasonOf({ status, reason }: AnswerHead): string {
  return isFieldValue(reason) ? reason : (STATUS_CODES[status] ?? "");
}

/** Names and values in turn, of an answer or of an interim one, for a client that speaks HTTP/1. */
export function answerFields({ fields, status }: AnswerHead): string[] {
  const { names, pairs } = fields;
  const dropped = namedByConnection(fields);
  const isUnframed = status < 200 || status === 204;
  const result: string[] = [];
  for (let index = 0; index < names.length; index += 1) {
    const name = names[index] ?? "";
    if (hopByHop.has(name) || dropped?.has(name) === true) continue;
    if (isUnframed && name === "content-length") continue;
    result.push(pairs[2 * index] ?? "", pairs[2 * index + 1] ?? "");
  }
  return result;
}

/** The same for a client that speaks HTTP/2, where names are in small letters. */
export function http2Fields(pairs: readonly string[]): OutgoingHttpHeaders {
  const result: Record<string, string[]> = Object.create(null) as Record<string, string[]>;
  for (let index = 0; index < pairs.length; index += 2) {
    const name = (pairs[index] ?? "").toLowerCase();
    const values = (result[name] ??= []);
    if (values.length === 0 || !singleInHttp2.has(name)) values.push(pairs[index + 1] ?? "");
  }
  return result;
}

/** Names and values in turn. */
export function trailerFields({ names, pairs }: Fields): string[] {
  return names.flatMap((name, index) =>
    notTrailers.has(name) ? [] : [pairs[2 * index] ?? "", pairs[2 * index + 1] ?? ""],
  );
}

/** Names that `Connection` lists as being of this connection only; undefined when there are none. */
function namedByConnection(fields: Fields): ReadonlySet<string> | undefined {
  if (!fields.names.includes("connection")) return undefined;
  const named = listOf(fields, "connection").filter((name) => !neverNamed.has(name));
  return named.length === 0 ? undefined : new Set(named);
}
