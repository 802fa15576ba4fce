/**
 * `POST /files/compose`: joins several files into one, in order, and removes them. A client uploads
 * a large file this way, in parts that it may retry.
 *
 * The parts are joined in a temporary file beside the destination, which then replaces the
 * destination in one step: a call that fails leaves the destination and every part as they were.
 *
 * server.ts calls this for requests that carry the token. Failures are the same as those of
 * `/files`.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { basename, dirname, join } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";
import { TorporError, optional, parseJson, parseObject, parseString } from "@torpor/std";
import type { Accounts, User } from "./accounts.ts";
import { freshBytes } from "./entropy.ts";
import { FileWork } from "./file-work.ts";
import { discardRest, readBody, sendError, sendJson } from "./http-answer.ts";
import type { Identity } from "./identity.ts";
import { OpenFile } from "./open-file.ts";
import { makeOwnedFolder } from "./owned-folder.ts";
import { resolvePath, resolveUser } from "./request-user.ts";
import { asConnectError, httpStatus } from "./system-errors.ts";
import { removeTree } from "./tree-removal.ts";

/** LIMITS of one call: paths only, and as many parts as a very large upload has. */
const bodyBytesMax = 4 << 20;
const sourcesMax = 10_000;
const copyChunkBytes = 256 << 10;

/** The parts of the agent that decide what paths and users of a request mean. */
export interface ComposeContext {
  readonly accounts: Accounts;
  readonly identity: Identity;
}

interface Composition {
  readonly sources: readonly string[];
  readonly destination: string;
  readonly user: User;
}

/**
 * Serves one call. Answers its failures itself, so it rejects only if the answer cannot be written.
 */
export async function serveCompose(
  request: IncomingMessage,
  response: ServerResponse,
  context: ComposeContext,
): Promise<void> {
  const work = new FileWork();
  response.once("close", () => work.leave());
  try {
    const body = await readBody(request, bodyBytesMax);
    const composition = parseComposition(body, context);
    await compose(composition, work);
    const path = composition.destination;
    sendJson(response, 200, { path, name: basename(path), type: "file" });
  } catch (cause) {
    const error = isRefused(cause)
      ? invalid(cause.rawMessage, cause)
      : asConnectError(cause, "compose");
    sendError(response, httpStatus(error), error.rawMessage);
    discardRest(request);
  }
}

/**
 * Parses the body and resolves its paths.
 * @throws argument.invalid; ConnectError invalid_argument, unauthenticated
 */
function parseComposition(body: Buffer, { accounts, identity }: ComposeContext): Composition {
  const fields = parseObject(parseJson(body.toString("utf8"), "body"), "body");
  const username = optional(fields["username"], parseString, "username");
  const user = resolveUser(username === "" ? undefined : username, accounts, identity);
  const resolve = (path: string): string =>
    resolvePath(path, user, identity.current.defaultWorkdir);
  const sources = parsePaths(fields["source_paths"]).map(resolve);
  if (new Set(sources).size !== sources.length) throw invalid("the same part is named twice");
  const destination = resolve(parseString(fields["destination"], "destination"));
  return { sources, destination, user };
}

function parsePaths(value: unknown): readonly string[] {
  if (!Array.isArray(value) || value.length === 0 || value.length > sourcesMax) {
    throw invalid(`source_paths must be a list of 1 to ${sourcesMax} paths`);
  }
  return value.map((path) => parseString(path, "source_paths"));
}

async function compose(composition: Composition, work: FileWork): Promise<void> {
  const { sources, destination, user } = composition;
  const existing = await work.stat(destination).catch(() => undefined);
  if (existing?.isDirectory() === true) throw invalid(`path is a directory: '${destination}'`);
  for (const source of sources) await checkPart(source, work);
  await makeOwnedFolder(dirname(destination), user, work);
  const staged = join(dirname(destination), `.compose-${freshBytes(8).toString("hex")}`);
  await using undo = new AsyncDisposableStack();
  {
    await using file = await OpenFile.create(staged, 0o600, work);
    undo.defer(async () => await work.discard(staged));
    await file.chmod(existing === undefined ? 0o644 : existing.mode & 0o777);
    await file.chown(user.uid, user.gid);
    for (const source of sources) await append(file, source, work);
    await file.close();
  }
  await work.rename(staged, destination);
  undo.move();
  // The destination may be one of the parts.
  for (const source of sources) if (source !== destination) await removeTree(source, work);
}

async function checkPart(path: string, work: FileWork): Promise<void> {
  const stats = await work.stat(path).catch((cause: unknown) => {
    throw asConnectError(cause, path);
  });
  if (!stats.isFile()) throw invalid(`a part is not a file: '${path}'`);
}

async function append(file: OpenFile, source: string, work: FileWork): Promise<void> {
  await using part = await OpenFile.read(source, work);
  const room = Buffer.allocUnsafe(copyChunkBytes);
  for (;;) {
    const read = await part.read(room, null);
    if (read.length === 0) return;
    await file.write(read);
  }
}

/** Whether a parser refused the body, which is the client's fault. */
function isRefused(cause: unknown): cause is TorporError {
  return TorporError.is(cause) && cause.code === "argument.invalid";
}

function invalid(message: string, cause?: unknown): ConnectError {
  return new ConnectError(message, Code.InvalidArgument, {}, [], cause);
}
