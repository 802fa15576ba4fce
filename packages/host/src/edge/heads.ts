/**
 * Rewrites the heads and trailers of messages on their way through the edge. Pure. Every field that
 * is relayed passes here before anything is set on a request or an answer, so that neither can
 * throw.
 *
 * Fields pass unchanged and in order, except those about one connection only (RFC 9110, 7.6.1),
 * those for the edge alone, and those that tell the guest who the client is. Framing is never
 * relayed: the side that sends a message states it again (framing.ts).
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
 * Fields that `Connection` cannot remove by naming them: they frame, route or describe the message,
 * and a sender must not list a field that is meant for the last recipient (RFC 9110, 7.6.1).
 */
const neverNamed = new Set([
  ...["host", "content-length", "transfer-encoding", "trailer", "te", "upgrade", "expect"],
  ...["content-encoding", "content-type", "content-range", "range", "cookie", "set-cookie"],
  ...["authorization", "location"],
]);
const ofTheEdge = new Set<string>([hostKeyHeader, trafficTokenHeader]);
const ofTheClient = new Set(["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]);
/**
 * Fields that the edge states itself. Many servers read "_" as "-", and would accept fields that
 * were not checked.
 */
const replaced = new Set([...hopByHop, ...ofTheEdge, ...ofTheClient, "host", "content-length"]);
/**
 * Fields that trailers must not contain (RFC 9110, 6.5.1), because a reader might merge them into
 * the head.
 */
const notTrailers = new Set([
  ...[...hopByHop, ...neverNamed, ...ofTheEdge, ...ofTheClient],
  ...["age", "cache-control", "date", "expires", "max-forwards", "pragma", "retry-after", "vary"],
]);
/**
 * Fields that Node allows only once in HTTP/2. The first of several is sent, as Node reads them.
 */
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
/** A host and a port, or an empty text. */
const hostPattern = /^[A-Za-z0-9._~!$&'()*+;=:%[\]-]*$/;
const pathPattern = /^[\x21-\x7e\x80-\xff]+$/;

/** The head of a client's request, checked and unambiguous. */
export interface RequestHead {
  readonly method: string;
  /** Path and query, or `*`. */
  readonly path: string;
  readonly host: string;
  readonly fields: Fields;
  readonly framing: Framing;
}

/**
 * Checks and parses a head.
 * @throws SyntaxFault when it could be read in more than one way, or not at all
 */
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

/** The host in HTTP/1 and HTTP/2; includes the port if the client gave one. */
function soleHost(request: IncomingMessage, fields: Fields): string {
  const hosts = valuesOf(fields, "host");
  if (hosts.length > 1) throw new SyntaxFault("it has more than one Host");
  const authority = isHttp2(request) ? valueOf(fields, ":authority") : undefined;
  const host = authority ?? hosts[0] ?? "";
  if (!hostPattern.test(host)) throw new SyntaxFault("its Host is no host");
  return host;
}

/** Clients send whole URLs to proxies; such a URL must name the same host (RFC 9112, 3.2.2). */
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

/** How the fields of a request change on the way to the guest. */
export interface RequestFieldsOptions {
  /** The host that the guest sees, if not the one that the client used. */
  readonly maskedHost: string | undefined;
  /** The protocol to change to, if the client asked for one and is allowed to. */
  readonly upgrade: string | undefined;
  readonly client: Client;
}

/** The sender of a request, for the forwarded fields. */
export interface Client {
  /** Undefined on a Unix socket. */
  readonly address: string | undefined;
  readonly isSecure: boolean;
}

/** The fields of a request to a guest's HTTP/1 server; names and values alternate. */
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

/** The fields of a request to a guest's HTTP/2 server, which frames by itself. */
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

/** Adds the fields that pass unchanged. */
function relayRequestFields({ fields }: RequestHead, result: string[]): void {
  const { names, pairs } = fields;
  const dropped = namedByConnection(fields);
  const cookies: string[] = [];
  for (let index = 0; index < names.length; index += 1) {
    const name = names[index] ?? "";
    const value = pairs[2 * index + 1] ?? "";
    const read = name.includes("_") ? name.replaceAll("_", "-") : name;
    if (replaced.has(read) || dropped?.has(name) === true || name.startsWith(":")) continue;
    // HTTP/2 splits a field that HTTP/1 wants on one line (RFC 9113, 8.2.3).
    if (name === "cookie") cookies.push(value);
    else result.push(pairs[2 * index] ?? "", value);
  }
  if (cookies.length > 0) result.push("Cookie", cookies.join("; "));
}

/**
 * The forwarded fields: the client's address, the host it used, and http or https. Fields that a
 * proxy in front of the edge, on the same machine, has set already are kept; those of other clients
 * are not believed.
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

/** A guest's reason phrase, or the usual one if it cannot be sent. */
export function reasonOf({ status, reason }: AnswerHead): string {
  return isFieldValue(reason) ? reason : (STATUS_CODES[status] ?? "");
}

/** The fields of a final or interim answer to an HTTP/1 client; names and values alternate. */
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

/** The same fields for HTTP/2, where names are in lower case. */
export function http2Fields(pairs: readonly string[]): OutgoingHttpHeaders {
  const result: Record<string, string[]> = Object.create(null) as Record<string, string[]>;
  for (let index = 0; index < pairs.length; index += 2) {
    const name = (pairs[index] ?? "").toLowerCase();
    const values = (result[name] ??= []);
    if (values.length === 0 || !singleInHttp2.has(name)) values.push(pairs[index + 1] ?? "");
  }
  return result;
}

/** The trailers that may pass; names and values alternate. */
export function trailerFields({ names, pairs }: Fields): string[] {
  return names.flatMap((name, index) =>
    notTrailers.has(name) ? [] : [pairs[2 * index] ?? "", pairs[2 * index + 1] ?? ""],
  );
}

/**
 * Names that `Connection` lists as fields of this connection only; undefined when there are none.
 */
function namedByConnection(fields: Fields): ReadonlySet<string> | undefined {
  if (!fields.names.includes("connection")) return undefined;
  const named = listOf(fields, "connection").filter((name) => !neverNamed.has(name));
  return named.length === 0 ? undefined : new Set(named);
}
