/**
 * `/files`: contents of files, down (file-download.ts) and up (file-upload.ts), streamed in both
 * directions.
 *
 * server.ts calls this for every request to the path. The token or the signature is checked here,
 * because signed links are made for callers without a token.
 *
 * Failures are `{code, message}` in JSON: 400 for a wrong request, 401, 404, 507 when the disk is
 * full, and the other statuses of system-errors.ts.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { Code, ConnectError } from "@connectrpc/connect";
import { accessTokenHeader } from "@torpor/protocol";
import type { Accounts, User } from "./accounts.ts";
import { download } from "./file-download.ts";
import { type WrittenFile, writeUpload } from "./file-upload.ts";
import { FileWork } from "./file-work.ts";
import { discardRest, sendError, sendJson } from "./http-answer.ts";
import type { Identity } from "./identity.ts";
import { parseMetadata } from "./metadata.ts";
import { type Part, type PartFilename, parseBoundary, parseMultipart } from "./multipart.ts";
import { decodePercents } from "./path-name.ts";
import { resolvePath, resolveUser } from "./request-user.ts";
import { signatureProblem } from "./signature.ts";
import { asConnectError, httpStatus } from "./system-errors.ts";
import { uploadName } from "./upload-name.ts";

/** LIMIT: files of one multipart request; the answer lists them all. */
const filesMax = 10_000;

/** The parts of the agent that decide who may call and what paths of a request mean. */
export interface FilesContext {
  readonly accounts: Accounts;
  readonly identity: Identity;
}

/**
 * Serves one request. Answers its failures itself; after the head of an answer it breaks the
 * connection.
 */
export async function serveFiles(
  request: IncomingMessage,
  response: ServerResponse,
  query: URLSearchParams,
  context: FilesContext,
): Promise<void> {
  const work = new FileWork();
  response.once("close", () => work.leave());
  try {
    switch (request.method ?? "") {
      case "GET":
      case "HEAD":
        authorise(request, query, "read", context);
        await download(request, response, downloadPath(request, query, context), work);
        break;
      case "POST":
        authorise(request, query, "write", context);
        sendJson(response, 200, await upload(request, query, context, work));
        break;
      default:
        response.setHeader("Allow", "GET, HEAD, POST");
        sendError(response, 405, "only GET and POST");
    }
  } catch (cause) {
    const error = asConnectError(cause, query.get("path") ?? "upload");
    if (response.headersSent) response.destroy();
    else sendError(response, httpStatus(error), error.rawMessage);
    discardRest(request);
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

async function upload(
  request: IncomingMessage,
  query: URLSearchParams,
  context: FilesContext,
  work: FileWork,
): Promise<WrittenFile[]> {
  const user = requestUser(query, context);
  const metadata = parseMetadata(request.headers);
  const type = request.headers["content-type"] ?? "";
  const [mediaType] = type.split(";", 1);
  const given = pathOf(request, query);
  const write: WriteFile = async (path, body, bytesMax) =>
    await writeUpload({ path, body, bytesMax, user, metadata, work });

  switch (mediaType?.trim().toLowerCase() ?? "") {
    case "application/octet-stream": {
      if (given === null || given === "") throw invalid("path is required for a raw upload");
      const path = targetPath(given, user, context);
      return [await decoded(request, (body, announcedBytes) => write(path, body, announcedBytes))];
    }
    case "multipart/form-data": {
      const boundary = parseBoundary(type);
      const target = (filename: PartFilename | undefined): string => {
        if (given !== null && given !== "") return targetPath(given, user, context);
        const path =
          filename === undefined ? "" : uploadName(filename, request.headers["user-agent"]);
        if (path === "") throw invalid("a file part has no filename");
        return targetPath(path, user, context);
      };
      return await decoded(request, (body, announcedBytes) =>
        writeParts(parseMultipart(body, boundary), target, announcedBytes, write),
      );
    }
    default:
      throw invalid(`unsupported content type '${type}'`);
  }
}

type WriteFile = (
  path: string,
  body: AsyncIterable<Buffer>,
  bytesMax: number | undefined,
) => Promise<WrittenFile>;

async function writeParts(
  parts: AsyncIterable<Part>,
  target: (filename: PartFilename | undefined) => string,
  announcedBytes: number | undefined,
  write: WriteFile,
): Promise<WrittenFile[]> {
  const written = new Map<string, WrittenFile>();
  let bytesMax = announcedBytes;
  for await (const part of parts) {
    if (part.name !== "file") continue;
    const path = target(part.filename);
    if (written.has(path)) throw invalid(`the same file twice in one upload: '${path}'`);
    if (written.size >= filesMax) throw invalid(`more than ${filesMax} files in one upload`);
    const body = new CountedBody(part.body);
    written.set(path, await write(path, body, bytesMax));
    if (bytesMax !== undefined) bytesMax -= body.bytesRead;
  }
  return [...written.values()];
}

class CountedBody implements AsyncIterable<Buffer> {
  readonly #source: AsyncIterable<Buffer>;
  bytesRead = 0;

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer, void, undefined> {
    for await (const chunk of this.#source) {
      this.bytesRead += chunk.length;
      yield chunk;
    }
  }
}

/**
 * Passes the body to `consume` without its content encoding, with its length if the client
 * announced one. The request stays open for the answer.
 */
async function decoded<T>(
  request: IncomingMessage,
  consume: (body: AsyncIterable<Buffer>, announcedBytes: number | undefined) => Promise<T>,
): Promise<T> {
  const body: AsyncIterable<Buffer> = request.iterator({ destroyOnReturn: false });
  const encoding = request.headers["content-encoding"] ?? "identity";
  const length = request.headers["content-length"];
  if (encoding === "identity") {
    return await consume(body, length === undefined ? undefined : Number(length));
  }
  if (encoding !== "gzip") throw invalid(`unsupported content encoding '${encoding}'`);
  try {
    return await pipeline(body, createGunzip(), (plain: AsyncIterable<Buffer>) =>
      consume(plain, undefined),
    );
  } catch (cause) {
    if (isZlibError(cause)) throw invalid("the body is not valid gzip");
    throw cause;
  }
}

function downloadPath(
  request: IncomingMessage,
  query: URLSearchParams,
  context: FilesContext,
): string {
  return targetPath(pathOf(request, query) ?? "", requestUser(query, context), context);
}

/**
 * The path of the query. If it is not UTF-8 the parsed query has lost its bytes, so it is decoded
 * again here.
 */
function pathOf(request: IncomingMessage, query: URLSearchParams): string | null {
  const parsed = query.get("path");
  if (parsed?.includes("\uFFFD") !== true) return parsed;
  const raw = /[?&]path=([^&]*)/.exec(request.url ?? "")?.[1];
  return raw === undefined ? parsed : decodePercents(raw);
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
