/**
 * The two ways to follow a folder: a stream (WatchDir), and a watcher that a client polls.
 *
 * Both are a `FolderWatch` that fills a bounded queue. A client that does not empty its queue in
 * time gets an error and loses the watch; it never misses some events in silence.
 */
import { join } from "node:path";
import { type MessageInitShape, create } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext } from "@connectrpc/connect";
import {
  EventType,
  type FilesystemEventSchema,
  type WatchDirResponse,
  WatchDirResponseSchema,
} from "@torpor/protocol";
import type { Accounts } from "./accounts.ts";
import { readEntry } from "./entry-info.ts";
import { freshBytes } from "./entropy.ts";
import { EventQueue } from "./event-queue.ts";
import { FileWork } from "./file-work.ts";
import { FolderWatch } from "./folder-watch.ts";
import { InotifyHub } from "./inotify-hub.ts";
import type { QuietTimers } from "./quiet-timers.ts";
import { keepaliveMs, parseTimeoutMs, readStream, timeoutKey } from "./stream-headers.ts";
import { asConnectError } from "./system-errors.ts";

/** LIMIT: events that wait for their client to read them. */
const queuedEventsMax = 16_384;
/** LIMIT: polled watchers, which live until a client removes them. */
const watchersMax = 256;

/**
 * `f_type` of NFS, CIFS, SMB, SMB2 and FUSE: the kernel does not report changes made elsewhere
 * there.
 */
const networkTypes = new Set([0x6969, 0xff53_4d42, 0x517b, 0xfe53_4d42, 0x6573_5546]);

/** One client's request to watch a folder. */
export interface WatchRequest {
  /** Absolute. */
  readonly path: string;
  readonly recursive: boolean;
  readonly includeEntry: boolean;
  readonly allowNetworkMounts: boolean;
}

type FileEvent = MessageInitShape<typeof FilesystemEventSchema>;

interface Change {
  readonly type: EventType;
  readonly name: string;
}

interface Watcher {
  readonly request: WatchRequest;
  readonly changes: EventQueue<Change | "keepalive">;
  readonly watch: FolderWatch;
  /** The error that ended it, if no client did. */
  readonly failure: () => ConnectError | undefined;
}

const keepalive = create(WatchDirResponseSchema, { event: { case: "keepalive", value: {} } });
const started = create(WatchDirResponseSchema, { event: { case: "start", value: {} } });

/** All watches of clients. */
export class WatchService {
  readonly #accounts: Accounts;
  readonly #timers: QuietTimers;
  readonly #hub = new InotifyHub();
  /**
   * SNAPSHOT: polled watchers continue after a restore, with the changes no client has fetched yet.
   */
  readonly #watchers = new Map<string, Watcher>();
  readonly #streams = new Set<Watcher>();

  constructor(context: { readonly accounts: Accounts; readonly timers: QuietTimers }) {
    this.#accounts = context.accounts;
    this.#timers = context.timers;
  }

  /** Ends every watch and every stream. */
  close(): void {
    for (const { changes, watch } of [...this.#watchers.values(), ...this.#streams]) {
      changes.end();
      watch.close();
    }
    this.#watchers.clear();
  }

  /**
   * Watches for as long as the stream is read. Yields `start` once the folder is watched.
   * @throws ConnectError
   */
  async *stream(request: WatchRequest, context: HandlerContext): AsyncGenerator<WatchDirResponse> {
    const options = {
      signal: context.signal,
      timers: this.#timers,
      keepaliveMs: keepaliveMs(context.requestHeader),
      keepalive: "keepalive",
      timeoutMs: parseTimeoutMs(context.values.get(timeoutKey)),
    } as const;
    const watcher = await this.#open(request, context.signal);
    const work = new FileWork(context.signal);
    this.#streams.add(watcher);
    context.responseHeader.set("X-Accel-Buffering", "no");
    try {
      yield started;
      for await (const change of readStream(watcher.changes, options)) {
        if (change === "keepalive") {
          yield keepalive;
          continue;
        }
        const value = await this.#describe(request, change, work);
        yield create(WatchDirResponseSchema, { event: { case: "filesystem", value } });
      }
    } finally {
      this.#streams.delete(watcher);
      watcher.watch.close();
    }
  }

  /** Creates a watcher to poll. @returns the id of the watcher. @throws ConnectError */
  async create(request: WatchRequest, signal: AbortSignal): Promise<string> {
    if (this.#watchers.size >= watchersMax) {
      throw new ConnectError(`more than ${watchersMax} watchers`, Code.FailedPrecondition);
    }
    const watcher = await this.#open(request, signal);
    const id = `w${freshBytes(12).toString("hex")}`;
    this.#watchers.set(id, watcher);
    return id;
  }

  /**
   * Takes the changes since the last call.
   * @throws ConnectError not_found; the error that ended the watch
   */
  async take(id: string, work: FileWork): Promise<FileEvent[]> {
    const { request, changes, failure } = this.#find(id);
    const error = failure();
    if (error !== undefined) throw error;
    const taken = changes.drain().filter((change) => change !== "keepalive");
    return await Promise.all(taken.map((change) => this.#describe(request, change, work)));
  }

  /** Ends a watcher. @throws ConnectError not_found */
  remove(id: string): void {
    const { watch } = this.#find(id);
    this.#watchers.delete(id);
    watch.close();
  }

  #find(id: string): Watcher {
    const watcher = this.#watchers.get(id);
    if (watcher === undefined) throw new ConnectError(`no watcher '${id}'`, Code.NotFound);
    return watcher;
  }

  /** `signal` aborts when the client disconnects before the watch is open. */
  async #open(request: WatchRequest, signal: AbortSignal): Promise<Watcher> {
    await checkWatchable(request, new FileWork(signal));
    const changes: Watcher["changes"] = new EventQueue();
    let failure: ConnectError | undefined;
    const fail = (error: ConnectError): void => {
      failure ??= error;
      changes.end(error);
      watch.close();
    };
    const watch = new FolderWatch(this.#hub, {
      root: request.path,
      recursive: request.recursive,
      onEvent: (type, name) => {
        if (changes.queuedBytes < queuedEventsMax) changes.push({ type, name }, 1);
        else fail(new ConnectError("too many changes nobody fetched", Code.DataLoss));
      },
      onBroken: fail,
    });
    const close = (): void => watch.close();
    signal.addEventListener("abort", close, { once: true });
    try {
      await watch.open();
    } catch (cause) {
      throw failure ?? cause;
    } finally {
      signal.removeEventListener("abort", close);
    }
    return { request, changes, watch, failure: () => failure };
  }

  /** Adds the entry as it is now, for changes after which there should be one. */
  async #describe(
    request: WatchRequest,
    { type, name }: Change,
    work: FileWork,
  ): Promise<FileEvent> {
    if (!request.includeEntry || type === EventType.REMOVE || type === EventType.RENAME) {
      return { type, name };
    }
    const path = join(request.path, name);
    const entry = await readEntry(path, this.#accounts, work).catch(() => undefined);
    return entry === undefined ? { type, name } : { type, name, entry };
  }
}

/** @throws ConnectError not_found, invalid_argument */
async function checkWatchable(
  { path, allowNetworkMounts }: WatchRequest,
  work: FileWork,
): Promise<void> {
  try {
    if (!(await work.stat(path)).isDirectory()) {
      throw new ConnectError(`path is not a directory: '${path}'`, Code.InvalidArgument);
    }
    if (!allowNetworkMounts && networkTypes.has((await work.statfs(path)).type)) {
      throw new ConnectError(`path is on a network mount: '${path}'`, Code.InvalidArgument);
    }
  } catch (cause) {
    throw asConnectError(cause, path);
  }
}
