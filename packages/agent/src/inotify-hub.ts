/**
 * The one inotify descriptor of the agent, shared by all watches.
 *
 * Node cannot wait for such a descriptor, so `cat` copies it into a pipe, which Node can wait for:
 * no polling, no thread held in a blocking read. `cat` starts with the first watch, outside the
 * user cgroup, and ends with the last.
 *
 * If a folder is watched twice, the kernel returns the same number both times, so every number has
 * a set of listeners and is given back when the last of them leaves.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync } from "node:fs";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  type InotifyEvent,
  addInotifyWatch,
  inotify,
  openInotify,
  parseInotify,
  removeInotifyWatch,
} from "@torpor/native";
import { systemCode } from "@torpor/std";
import type { FileWork } from "./file-work.ts";
import { toDiskPath } from "./path-name.ts";

/**
 * The mask is the same for all, because a watch with another set of events would replace the first.
 */
const mask =
  inotify.create |
  inotify.modify |
  inotify.attributes |
  inotify.delete |
  inotify.deleteSelf |
  inotify.movedFrom |
  inotify.movedTo |
  inotify.moveSelf |
  inotify.onlyFolders;

/** Hears of the changes in one folder. */
export interface FolderListener {
  /** Something happened in the folder, or to the folder itself (then `name` is empty). */
  onEvent(event: InotifyEvent): void;
  /** Events were lost, or no more will come. The listener is removed already. */
  onBroken(error: ConnectError): void;
}

interface Line {
  readonly fd: number;
  readonly cat: ChildProcess;
  /** Folders that are being added, each in a thread that uses the descriptor. */
  adding: number;
}

/** LIMIT: events of folders that are being added. */
const earlyEventsMax = 16_384;

/**
 * Shares the descriptor: adds and removes watches, and passes each event to the listeners of its
 * folder.
 */
export class InotifyHub {
  readonly #listeners = new Map<number, Set<FolderListener>>();
  /**
   * SNAPSHOT: descriptor, `cat` and watches are in the same snapshot and continue after a restore.
   */
  #line: Line | undefined;
  /** Events of watches that the kernel has made, but whose number `add` has not received yet. */
  #early: InotifyEvent[] = [];
  /** Watches that were given back; the kernel confirms each with an `ignored` event. */
  readonly #removed = new Set<number>();

  /**
   * Watches one folder.
   * @returns the number of the watch.
   * @throws system error ENOENT, ENOTDIR, ENOSPC; ConnectError canceled when the client of `work`
   *   has disconnected
   */
  async add(path: string, listener: FolderListener, work: FileWork): Promise<number> {
    const give = (watch: number): void => this.remove(watch, listener);
    return await work.run(async () => await this.#add(path, listener), give);
  }

  async #add(path: string, listener: FolderListener): Promise<number> {
    const line = (this.#line ??= this.#open());
    line.adding += 1;
    try {
      const watch = await addInotifyWatch(line.fd, toDiskPath(path), mask).catch(explainLimit);
      if (this.#line !== line) throw new ConnectError("watching has ended", Code.Aborted);
      const listeners = this.#listeners.get(watch) ?? new Set();
      this.#listeners.set(watch, listeners.add(listener));
      const early = this.#early.filter((event) => event.watch === watch);
      this.#early = this.#early.filter((event) => event.watch !== watch);
      for (const event of early) this.#dispatch(event);
      return watch;
    } finally {
      line.adding -= 1;
      if (line.adding === 0) this.#early = [];
      if (this.#line === line) this.#closeIfUnused();
      else if (line.adding === 0) closeSync(line.fd);
    }
  }

  /** Ends a listener's watch. Safe to repeat. */
  remove(watch: number, listener: FolderListener): void {
    const listeners = this.#listeners.get(watch);
    if (listeners?.delete(listener) !== true || listeners.size > 0) return;
    this.#listeners.delete(watch);
    this.#removed.add(watch);
    if (this.#line !== undefined) removeInotifyWatch(this.#line.fd, watch);
    this.#closeIfUnused();
  }

  #open(): Line {
    const fd = openInotify();
    const cat = spawn("cat", [], { stdio: [fd, "pipe", "ignore"] });
    const line: Line = { fd, cat, adding: 0 };
    let rest: Buffer = Buffer.alloc(0);
    cat.stdout?.on("data", (bytes: Buffer) => {
      const parsed = parseInotify(rest.length === 0 ? bytes : Buffer.concat([rest, bytes]));
      rest = parsed.rest;
      for (const event of parsed.events) if (this.#line === line) this.#dispatch(event);
    });
    const onEnd = (): void => {
      if (this.#line === line) this.#break("watching has ended unexpectedly");
    };
    cat.on("error", onEnd);
    cat.on("exit", onEnd);
    return line;
  }

  #dispatch(event: InotifyEvent): void {
    if (event.mask & inotify.overflow) {
      this.#break("the kernel dropped file events: too many at once");
      return;
    }
    const listeners = this.#listeners.get(event.watch);
    if (listeners === undefined) {
      this.#keepIfEarly(event);
      return;
    }
    for (const listener of listeners) listener.onEvent(event);
    if (event.mask & inotify.ignored) {
      this.#listeners.delete(event.watch);
      this.#closeIfUnused();
    }
  }

  #keepIfEarly(event: InotifyEvent): void {
    if (this.#removed.has(event.watch)) {
      if (event.mask & inotify.ignored) this.#removed.delete(event.watch);
      return;
    }
    if ((this.#line?.adding ?? 0) === 0) return;
    this.#early.push(event);
    if (this.#early.length > earlyEventsMax) this.#break("too many file events at once");
  }

  #break(reason: string): void {
    const listeners = new Set([...this.#listeners.values()].flatMap((set) => [...set]));
    const error = new ConnectError(reason, Code.DataLoss);
    this.#listeners.clear();
    this.#close();
    for (const listener of listeners) listener.onBroken(error);
  }

  #closeIfUnused(): void {
    if (this.#listeners.size === 0 && this.#line?.adding === 0) this.#close();
  }

  #close(): void {
    if (this.#line === undefined) return;
    const { fd, cat, adding } = this.#line;
    this.#line = undefined;
    this.#early = [];
    this.#removed.clear();
    // A thread that adds a folder uses the descriptor, and closes it when it is the last.
    if (adding === 0) closeSync(fd);
    cat.kill("SIGKILL");
  }
}

/**
 * The kernel reports too many watches as a full disk.
 * @throws its argument if it is another error
 */
function explainLimit(cause: unknown): never {
  if (systemCode(cause) !== "ENOSPC") throw cause;
  const text = "more folders than fs.inotify.max_user_watches allows to watch";
  throw new ConnectError(text, Code.FailedPrecondition, {}, [], cause);
}
