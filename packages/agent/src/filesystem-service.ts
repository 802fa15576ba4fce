/**
 * The RPCs of `filesystem.Filesystem`.
 *
 * They run with the agent's own rights: the user of a request decides what a path means and who
 * owns what is created, not what may be done. SAFETY: a client that may call these may also start a
 * process as root, so a permission check here would protect nothing.
 */
import { dirname, join } from "node:path";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import type { Filesystem } from "@torpor/protocol";
import { systemCode } from "@torpor/std";
import type { Accounts, User } from "./accounts.ts";
import { type Entry, readEntry } from "./entry-info.ts";
import { type FolderEntry, FileWork } from "./file-work.ts";
import type { Identity } from "./identity.ts";
import { makeOwnedFolder } from "./owned-folder.ts";
import type { QuietTimers } from "./quiet-timers.ts";
import { resolvePath, resolveUser, userNameOfHeader } from "./request-user.ts";
import { asConnectError } from "./system-errors.ts";
import { moveTree } from "./tree-move.ts";
import { removeTree } from "./tree-removal.ts";
import { WatchService } from "./watch-service.ts";

/** LIMIT: entries of one listing, which is built in memory before it is sent. */
const entriesMax = 100_000;
/** Entries that are read together; the files of other requests are served in between. */
const readTogether = 32;

/** The parts of the agent that the file RPCs use. */
export interface FilesystemServiceContext {
  readonly accounts: Accounts;
  readonly identity: Identity;
  readonly timers: QuietTimers;
}

/**
 * Implements the RPCs. Each rejects with a ConnectError of system-errors.ts or of its own checks.
 */
export class FilesystemService implements ServiceImpl<typeof Filesystem> {
  readonly #context: FilesystemServiceContext;
  readonly #watches: WatchService;

  constructor(context: FilesystemServiceContext) {
    this.#context = context;
    this.#watches = new WatchService(context);
  }

  /** Ends every watch. */
  close(): void {
    this.#watches.close();
  }

  readonly stat: ServiceImpl<typeof Filesystem>["stat"] = async (request, context) => {
    const { path, work } = this.#resolve(request.path, context);
    return { entry: await this.#read(path, work) };
  };

  readonly makeDir: ServiceImpl<typeof Filesystem>["makeDir"] = async (request, context) => {
    const { path, user, work } = this.#resolve(request.path, context);
    const existing = await work.stat(path).catch(() => undefined);
    if (existing?.isDirectory() === true) {
      throw new ConnectError(`directory already exists: '${path}'`, Code.AlreadyExists);
    }
    if (existing !== undefined) {
      throw new ConnectError(`path exists and is not a directory: '${path}'`, Code.InvalidArgument);
    }
    await attempt(path, makeOwnedFolder(path, user, work));
    return { entry: await this.#read(path, work) };
  };

  readonly move: ServiceImpl<typeof Filesystem>["move"] = async (request, context) => {
    const { path: source, user, work } = this.#resolve(request.source, context);
    const { path: destination } = this.#resolve(request.destination, context);
    await this.#read(source, work);
    await attempt(destination, makeOwnedFolder(dirname(destination), user, work));
    await attempt(source, moveTree(source, destination, work));
    return { entry: await this.#read(destination, work) };
  };

  readonly listDir: ServiceImpl<typeof Filesystem>["listDir"] = async (request, context) => {
    const { path, work } = this.#resolve(request.path, context);
    const root = await attempt(path, work.realpath(path));
    const stats = await attempt(path, work.stat(root));
    if (!stats.isDirectory()) {
      throw new ConnectError(`path is not a directory: '${path}'`, Code.InvalidArgument);
    }
    const entries: Entry[] = [];
    await this.#list({ real: root, shown: path }, request.depth || 1, entries, work);
    return { entries };
  };

  readonly remove: ServiceImpl<typeof Filesystem>["remove"] = async (request, context) => {
    const { path, work } = this.#resolve(request.path, context);
    if (path === "/") throw new ConnectError("the root cannot be removed", Code.InvalidArgument);
    await attempt(path, removeTree(path, work));
    return {};
  };

  readonly watchDir: ServiceImpl<typeof Filesystem>["watchDir"] = (request, context) =>
    this.#watches.stream({ ...request, path: this.#resolve(request.path, context).path }, context);

  readonly createWatcher: ServiceImpl<typeof Filesystem>["createWatcher"] = async (
    request,
    context,
  ) => {
    const { path } = this.#resolve(request.path, context);
    return { watcherId: await this.#watches.create({ ...request, path }, context.signal) };
  };

  readonly getWatcherEvents: ServiceImpl<typeof Filesystem>["getWatcherEvents"] = async (
    request,
    context,
  ) => ({
    events: await this.#watches.take(request.watcherId, new FileWork(context.signal)),
  });

  readonly removeWatcher: ServiceImpl<typeof Filesystem>["removeWatcher"] = (request) => {
    this.#watches.remove(request.watcherId);
    return {};
  };

  #resolve(path: string, context: HandlerContext): { path: string; user: User; work: FileWork } {
    const { accounts, identity } = this.#context;
    const name = userNameOfHeader(context.requestHeader.get("authorization"));
    const user = resolveUser(name, accounts, identity);
    const resolved = resolvePath(path, user, identity.current.defaultWorkdir);
    return { path: resolved, user, work: new FileWork(context.signal) };
  }

  async #read(path: string, work: FileWork): Promise<Entry> {
    return await attempt(path, readEntry(path, this.#context.accounts, work));
  }

  /** Lists depth first, by name. Paths keep the prefix that was asked for, even if it is a link. */
  async #list(
    folder: { readonly real: string; readonly shown: string },
    depth: number,
    entries: Entry[],
    work: FileWork,
  ): Promise<void> {
    const children = await readChildren(folder.real, work).catch((cause: unknown) => {
      if (isGone(cause)) return [];
      throw asConnectError(cause, folder.shown);
    });
    for (let at = 0; at < children.length; at += readTogether) {
      const some = children.slice(at, at + readTogether);
      const read = await Promise.all(
        some.map(async ({ name }) => await this.#readUnlessGone(join(folder.shown, name), work)),
      );
      for (const [index, { name, isFolder }] of some.entries()) {
        const entry = read[index];
        if (entry === undefined) continue;
        if (entries.length >= entriesMax) throw tooMany();
        entries.push(entry);
        if (!isFolder || depth === 1) continue;
        const below = { real: join(folder.real, name), shown: join(folder.shown, name) };
        await this.#list(below, depth - 1, entries, work);
      }
    }
  }

  async #readUnlessGone(path: string, work: FileWork): Promise<Entry | undefined> {
    try {
      return await readEntry(path, this.#context.accounts, work);
    } catch (cause) {
      if (isGone(cause)) return undefined;
      throw asConnectError(cause, path);
    }
  }
}

/**
 * Lists a folder by name, in the order of the bytes.
 * @throws system error; ConnectError out_of_range
 */
async function readChildren(path: string, work: FileWork): Promise<FolderEntry[]> {
  const children: FolderEntry[] = [];
  for await (const child of work.entries(path)) {
    if (children.length >= entriesMax) throw tooMany();
    children.push(child);
  }
  return children.sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)));
}

function tooMany(): ConnectError {
  return new ConnectError(`more than ${entriesMax} entries`, Code.OutOfRange);
}

function isGone(cause: unknown): boolean {
  return systemCode(cause) === "ENOENT" || systemCode(cause) === "ENOTDIR";
}

/** Awaits a file operation. @throws ConnectError with the path in its text. */
async function attempt<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    throw asConnectError(cause, path);
  }
}
