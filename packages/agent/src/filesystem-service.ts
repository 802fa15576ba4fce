/**
 * The RPCs of `filesystem.Filesystem`.
 *
 * They run with the agent's own rights: the user of a request decides what a path means and who owns
 * what is created, not what may be done. SAFETY: whoever may call these may also start a process as
 * root, so a permission check here would protect nothing.
 */
import { opendir, realpath, rename, rm, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import type { Filesystem } from "@torpor/protocol";
import { systemCode } from "@torpor/std";
import type { Accounts, User } from "./accounts.ts";
import { type Entry, readEntry } from "./entry-info.ts";
import type { Identity } from "./identity.ts";
import { makeOwnedFolder } from "./owned-folder.ts";
import type { QuietTimers } from "./quiet-timers.ts";
import { resolvePath, resolveUser, userNameOfHeader } from "./request-user.ts";
import { asConnectError } from "./system-errors.ts";
import { WatchService } from "./watch-service.ts";

/** LIMIT: entries of one listing, which is built in memory before it is sent. */
const entriesMax = 100_000;

export interface FilesystemServiceContext {
  readonly accounts: Accounts;
  readonly identity: Identity;
  readonly timers: QuietTimers;
}

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
    const { path } = this.#resolve(request.path, context);
    return { entry: await this.#read(path) };
  };

  readonly makeDir: ServiceImpl<typeof Filesystem>["makeDir"] = async (request, context) => {
    const { path, user } = this.#resolve(request.path, context);
    const existing = await stat(path).catch(() => undefined);
    if (existing?.isDirectory() === true) {
      throw new ConnectError(`directory already exists: '${path}'`, Code.AlreadyExists);
    }
    if (existing !== undefined) {
      throw new ConnectError(`path exists and is not a directory: '${path}'`, Code.InvalidArgument);
    }
    await attempt(path, makeOwnedFolder(path, user));
    return { entry: await this.#read(path) };
  };

  readonly move: ServiceImpl<typeof Filesystem>["move"] = async (request, context) => {
    const { path: source, user } = this.#resolve(request.source, context);
    const { path: destination } = this.#resolve(request.destination, context);
    await this.#read(source);
    await attempt(destination, makeOwnedFolder(dirname(destination), user));
    await attempt(source, rename(source, destination));
    return { entry: await this.#read(destination) };
  };

  readonly listDir: ServiceImpl<typeof Filesystem>["listDir"] = async (request, context) => {
    const { path } = this.#resolve(request.path, context);
    const root = await attempt(path, realpath(path));
    const stats = await attempt(path, stat(root));
    if (!stats.isDirectory()) {
      throw new ConnectError(`path is not a directory: '${path}'`, Code.InvalidArgument);
    }
    const entries: Entry[] = [];
    await this.#list({ real: root, shown: path }, request.depth || 1, entries);
    return { entries };
  };

  readonly remove: ServiceImpl<typeof Filesystem>["remove"] = async (request, context) => {
    const { path } = this.#resolve(request.path, context);
    if (path === "/") throw new ConnectError("the root cannot be removed", Code.InvalidArgument);
    await attempt(path, rm(path, { recursive: true, force: true }));
    return {};
  };

  readonly watchDir: ServiceImpl<typeof Filesystem>["watchDir"] = (request, context) =>
    this.#watches.stream({ ...request, path: this.#resolve(request.path, context).path }, context);

  readonly createWatcher: ServiceImpl<typeof Filesystem>["createWatcher"] = async (
    request,
    context,
  ) => {
    const { path } = this.#resolve(request.path, context);
    return { watcherId: await this.#watches.create({ ...request, path }) };
  };

  readonly getWatcherEvents: ServiceImpl<typeof Filesystem>["getWatcherEvents"] = async (
    request,
  ) => ({
    events: await this.#watches.take(request.watcherId),
  });

  readonly removeWatcher: ServiceImpl<typeof Filesystem>["removeWatcher"] = (request) => {
    this.#watches.remove(request.watcherId);
    return {};
  };

  #resolve(path: string, context: HandlerContext): { path: string; user: User } {
    const { accounts, identity } = this.#context;
    const name = userNameOfHeader(context.requestHeader.get("authorization"));
    const user = resolveUser(name, accounts, identity);
    return { path: resolvePath(path, user, identity.current.defaultWorkdir), user };
  }

  async #read(path: string): Promise<Entry> {
    return await attempt(path, readEntry(path, this.#context.accounts));
  }

  /** Depth first, by name. Paths keep the prefix that was asked for, though it may be a link. */
  async #list(
    folder: { readonly real: string; readonly shown: string },
    depth: number,
    entries: Entry[],
  ): Promise<void> {
    const children: { name: string; isFolder: boolean }[] = [];
    try {
      for await (const child of await opendir(folder.real)) {
        children.push({ name: child.name, isFolder: child.isDirectory() });
      }
    } catch (cause) {
      if (isGone(cause)) return;
      throw asConnectError(cause, folder.shown);
    }
    children.sort((a, b) => Buffer.compare(Buffer.from(a.name), Buffer.from(b.name)));
    for (const { name, isFolder } of children) {
      const below = { real: join(folder.real, name), shown: join(folder.shown, name) };
      const entry = await this.#readUnlessGone(below.shown);
      if (entry === undefined) continue;
      if (entries.length >= entriesMax) {
        throw new ConnectError(`more than ${entriesMax} entries`, Code.ResourceExhausted);
      }
      entries.push(entry);
      if (isFolder && depth > 1) await this.#list(below, depth - 1, entries);
    }
  }

  async #readUnlessGone(path: string): Promise<Entry | undefined> {
    try {
      return await readEntry(path, this.#context.accounts);
    } catch (cause) {
      if (isGone(cause)) return undefined;
      throw asConnectError(cause, path);
    }
  }
}

function isGone(cause: unknown): boolean {
  return systemCode(cause) === "ENOENT" || systemCode(cause) === "ENOTDIR";
}

/** Waits for a file operation; @throws ConnectError with the path in its text. */
async function attempt<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    throw asConnectError(cause, path);
  }
}
