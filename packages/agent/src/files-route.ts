/**
 * `/files`: contents of files, down and up, streamed in both directions.
 *
 * Called by server.ts for requests that carry the token or a signature; which of the two is checked
 * here, because signed links are made for callers without a token. An upload replaces the content of
 * an existing file in place; one that breaks off leaves the file as far as it came.
 *
 * Failures are `{code, message}` in JSON: 400 for a wrong request, 401, 404, 507 when the disk is full.
 */
import { createReadStream } from "node:fs";
import { open, stat } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { basename, dirname, extname } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGunzip, createGzip } from "node:zlib";
import { Code, ConnectError } from "@connectrpc/connect";
import { accessTokenHeader } from "@torpor/protocol";
import type { Accounts, User } from "./accounts.ts";
import { parseRange } from "./byte-range.ts";
import { sendError, sendJson } from "./http-answer.ts";
import type { Identity } from "./identity.ts";
import { type Metadata, parseMetadata, replaceMetadata } from "./metadata.ts";
import { parseBoundary, parseMultipart } from "./multipart.ts";
import { makeOwnedFolder } from "./owned-folder.ts";
import { resolvePath, resolveUser } from "./request-user.ts";
import { signatureProblem } from "./signature.ts";
import { asConnectError, httpStatus } from "./system-errors.ts";
import { writeWhole } from "./whole-write.ts";

/** LIMIT: files of one multipart request; the answer lists them all. */
const filesMax = 10_000;
const readChunkBytes = 256 << 10;

export interface FilesContext {
  readonly accounts: Accounts;
  readonly identity: Identity;
}

interface WrittenFile {
  readonly path: string;
  readonly name: string;
  readonly type: "file";
  readonly metadata?: Metadata;
}

export async function serveFiles(
  request: IncomingMessage,
  response: ServerResponse,
  query: URLSearchParams,
  context: FilesContext,
): Promise<void> {
  try {
    switch (request.method ?? "") {
      case "GET":
      case "HEAD":
        authorise(request, query, "read", context);
        await download(request, response, query, context);
        break;
      case "POST":
        authorise(request, query, "write", context);
        sendJson(response, 200, await upload(request, query, context));
        break;
      default:
        response.setHeader("Allow", "GET, HEAD, POST");
        sendError(response, 405, "only GET and POST");
    }
  } catch (cause) {
    const error = asConnectError(cause, query.get("path") ?? "upload");
    if (response.headersSent) response.destroy();
    else sendError(response, httpStatus(error), error.rawMessage);
  }
}

/** @throws ConnectError unauthenticated */
function authorise(
  request: IncomingMessage,
  query: URLSearchParams,
  operation: "read" | "write",
  { identity }: FilesContext,
): void {
  const { accessToken } = identity.current;
  if (accessToken === null) return;
  const token = request.headers[accessTokenHeader];
  if (typeof token === "string") {
    if (identity.acceptsToken(token)) return;
    throw new ConnectError("invalid access token", Code.Unauthenticated);
  }
  const signed = {
    path: query.get("path") ?? "",
    operation,
    username: query.get("username") ?? "",
    signature: query.get("signature") ?? "",
    expiration: query.get("signature_expiration") ?? undefined,
  };
  const problem = signatureProblem(signed, accessToken, Date.now());
  if (problem !== undefined) throw new ConnectError(problem, Code.Unauthenticated);
}

async function download(
  request: IncomingMessage,
  response: ServerResponse,
  query: URLSearchParams,
  context: FilesContext,
): Promise<void> {
  const path = targetPath(query.get("path") ?? "", requestUser(query, context), context);
  const stats = await stat(path);
  if (stats.isDirectory()) throw invalid(`path is a directory: '${path}'`);
  if (!stats.isFile()) throw invalid(`path is not a file: '${path}'`);
  const modified = Math.floor(stats.mtimeMs / 1000) * 1000;
  response.setHeader("Accept-Ranges", "bytes");
  response.setHeader("Content-Disposition", contentDisposition(basename(path)));
  response.setHeader("Content-Type", contentType(path));
  response.setHeader("Last-Modified", new Date(modified).toUTCString());
  response.setHeader("Vary", "Accept-Encoding");

  const { headers } = request;
  if (isBefore(headers["if-unmodified-since"], modified)) {
    sendError(response, 412, "the file was modified");
    return;
  }
  if (
    headers["if-modified-since"] !== undefined &&
    !isBefore(headers["if-modified-since"], modified)
  ) {
    response.writeHead(304).end();
    return;
  }
  const ifRange = headers["if-range"]?.toString();
  const rangeHolds = ifRange === undefined || Date.parse(ifRange) === modified;
  const range = parseRange(rangeHolds ? headers.range : undefined, stats.size);
  if (range.kind === "unsatisfiable") {
    response.setHeader("Content-Range", `bytes */${stats.size}`);
    sendError(response, 416, "the range lies outside the file");
    return;
  }
  const encoding = chooseEncoding(headers["accept-encoding"]);
  if (encoding === "none") {
    sendError(response, 406, "no acceptable encoding");
    return;
  }

  if (range.kind === "part") {
    const { first, last } = range;
    response.setHeader("Content-Range", `bytes ${first}-${last}/${stats.size}`);
    response.writeHead(206, { "Content-Length": last - first + 1 });
    await sendFile(request, response, path, { start: first, end: last });
  } else if (encoding === "gzip") {
    response.writeHead(200, { "Content-Encoding": "gzip" });
    await pipeline(createReadStream(path), createGzip(), response);
  } else if (stats.size === 0) {
    // Files of /proc have a content in spite of their size, so the length is left open.
    await sendFile(request, response, path, {});
  } else {
    response.writeHead(200, { "Content-Length": stats.size });
    // The length is promised: what is appended meanwhile is not sent.
    await sendFile(request, response, path, { start: 0, end: stats.size - 1 });
  }
}

async function sendFile(
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
  range: { start?: number; end?: number },
): Promise<void> {
  if (request.method === "HEAD") response.end();
  else
    await pipeline(createReadStream(path, { ...range, highWaterMark: readChunkBytes }), response);
}

async function upload(
  request: IncomingMessage,
  query: URLSearchParams,
  context: FilesContext,
): Promise<WrittenFile[]> {
  const user = requestUser(query, context);
  const metadata = parseMetadata(request.headers);
  const type = request.headers["content-type"] ?? "";
  const [mediaType] = type.split(";", 1);
  const given = query.get("path");
  const write = async (target: string, body: AsyncIterable<Buffer>): Promise<WrittenFile> =>
    await writeFile(targetPath(target, user, context), body, user, metadata);

  switch (mediaType?.trim().toLowerCase() ?? "") {
    case "application/octet-stream":
      if (given === null || given === "") throw invalid("path is required for a raw upload");
      return [await decoded(request, (body) => write(given, body))];
    case "multipart/form-data": {
      const boundary = parseBoundary(type);
      return await decoded(request, (body) =>
        writeParts(body, boundary, given, user, context, write),
      );
    }
    default:
      throw invalid(`unsupported content type '${type}'`);
  }
}

async function writeParts(
  body: AsyncIterable<Buffer>,
  boundary: string,
  given: string | null,
  user: User,
  context: FilesContext,
  write: (target: string, body: AsyncIterable<Buffer>) => Promise<WrittenFile>,
): Promise<WrittenFile[]> {
  const written = new Map<string, WrittenFile>();
  for await (const part of parseMultipart(body, boundary)) {
    if (part.name !== "file") continue;
    const target = given === null || given === "" ? part.filename : given;
    if (target === undefined || target === "") throw invalid("a file part has no filename");
    const path = targetPath(target, user, context);
    if (written.has(path)) throw invalid(`the same file twice in one upload: '${path}'`);
    if (written.size >= filesMax) throw invalid(`more than ${filesMax} files in one upload`);
    written.set(path, await write(target, part.body));
  }
  return [...written.values()];
}

/** Hands over the body without its content encoding. The request is left alive for the answer. */
async function decoded<T>(
  request: IncomingMessage,
  consume: (body: AsyncIterable<Buffer>) => Promise<T>,
): Promise<T> {
  const body: AsyncIterable<Buffer> = request.iterator({ destroyOnReturn: false });
  const encoding = request.headers["content-encoding"] ?? "identity";
  if (encoding === "identity") return await consume(body);
  if (encoding !== "gzip") throw invalid(`unsupported content encoding '${encoding}'`);
  try {
    return await pipeline(body, createGunzip(), consume);
  } catch (cause) {
    if (isZlibError(cause)) throw invalid("the body is not valid gzip");
    throw cause;
  }
}

async function writeFile(
  path: string,
  body: AsyncIterable<Buffer>,
  user: User,
  metadata: Metadata,
): Promise<WrittenFile> {
  await parentFolder(path, user);
  const existing = await stat(path).catch(() => undefined);
  if (existing?.isDirectory() === true) throw invalid(`path is a directory: '${path}'`);
  {
    await using file = await open(path, "w", 0o666);
    await file.chown(user.uid, user.gid);
    for await (const chunk of body) await writeWhole(file, chunk);
  }
  replaceMetadata(path, metadata);
  const hasMetadata = Object.keys(metadata).length > 0;
  return { path, name: basename(path), type: "file", ...(hasMetadata ? { metadata } : {}) };
}

async function parentFolder(path: string, user: User): Promise<void> {
  try {
    await makeOwnedFolder(dirname(path), user);
  } catch (cause) {
    const error = asConnectError(cause, path);
    if (error.code === Code.ResourceExhausted) throw error;
    throw new ConnectError(error.rawMessage, Code.Internal, {}, [], cause);
  }
}

function requestUser(query: URLSearchParams, { accounts, identity }: FilesContext): User {
  return resolveUser(query.get("username") || undefined, accounts, identity);
}

function targetPath(path: string, user: User, { identity }: FilesContext): string {
  return resolvePath(path, user, identity.current.defaultWorkdir);
}

function invalid(message: string): ConnectError {
  return new ConnectError(message, Code.InvalidArgument);
}

function isZlibError(cause: unknown): boolean {
  return cause instanceof Error && "code" in cause && /^Z_/.test(String(cause.code));
}

/** Whether the file was modified after the date of a header; false without a readable one. */
function isBefore(header: string | undefined, modifiedMs: number): boolean {
  return header !== undefined && Date.parse(header) < modifiedMs;
}

/** As it is, unless the client will not have that. */
function chooseEncoding(header: string | undefined): "identity" | "gzip" | "none" {
  if (header === undefined) return "identity";
  const weights = new Map<string, number>();
  for (const item of header.toLowerCase().split(",")) {
    const [name, ...parameters] = item.split(";").map((part) => part.trim());
    const weight = parameters.find((parameter) => parameter.startsWith("q="))?.slice(2);
    if (name !== undefined && name !== "")
      weights.set(name, weight === undefined ? 1 : Number(weight));
  }
  const any = weights.get("*");
  if ((weights.get("identity") ?? any ?? 1) > 0) return "identity";
  return (weights.get("gzip") ?? any ?? 0) > 0 ? "gzip" : "none";
}

function contentDisposition(name: string): string {
  if (/^[\w!#$&+\-.^`|~]+$/.test(name)) return `inline; filename=${name}`;
  if (/^[\x20-\x7e]*$/.test(name)) return `inline; filename="${name.replace(/["\\]/g, "\\$&")}"`;
  const encoded = encodeURIComponent(name).replace(
    /['()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16)}`,
  );
  return `inline; filename*=utf-8''${encoded}`;
}

const typeByExtension: Readonly<Record<string, string>> = {
  ".css": "text/css; charset=utf-8",
  ".csv": "text/csv; charset=utf-8",
  ".gif": "image/gif",
  ".htm": "text/html; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".jpeg": "image/jpeg",
  ".jpg": "image/jpeg",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".md": "text/markdown; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".pdf": "application/pdf",
  ".png": "image/png",
  ".svg": "image/svg+xml",
  ".txt": "text/plain; charset=utf-8",
  ".wasm": "application/wasm",
  ".webp": "image/webp",
  ".xml": "text/xml; charset=utf-8",
};

function contentType(path: string): string {
  return typeByExtension[extname(path).toLowerCase()] ?? "application/octet-stream";
}
