/**
 * The one inotify descriptor of the agent, shared by all watches.
 *
 * Node cannot wait for such a descriptor, so `cat` copies it into a pipe, which Node can: no polling,
 * no thread held in a blocking read. `cat` starts with the first watch, outside the user cgroup, and
 * ends with the last.
 *
 * The kernel gives a folder that is watched twice the same number, so every number has a set of
 * listeners and is given back when the last of them leaves.
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

/** The same for all, because asking for another set of events would replace the first. */
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

export interface FolderListener {
  /** Something happened in the folder, or to it (the name is empty then). */
  onEvent(event: InotifyEvent): void;
  /** Events were lost or no more will come. */
  onBroken(error: ConnectError): void;
}

interface Line {
  readonly fd: number;
  readonly cat: ChildProcess;
}

export class InotifyHub {
  readonly #listeners = new Map<number, Set<FolderListener>>();
  /** SNAPSHOT: descriptor, `cat` and watches are in the same snapshot and go on after a restore. */
  #line: Line | undefined;

  /** @returns the number of the watch. @throws system error ENOENT, ENOTDIR, ENOSPC */
  add(path: string, listener: FolderListener): number {
    this.#line ??= this.#open();
    try {
      const watch = addInotifyWatch(this.#line.fd, path, mask);
      const listeners = this.#listeners.get(watch) ?? new Set();
      this.#listeners.set(watch, listeners.add(listener));
      return watch;
    } finally {
      this.#closeIfUnused();
    }
  }

  /** Safe to repeat. */
  remove(watch: number, listener: FolderListener): void {
    const listeners = this.#listeners.get(watch);
    if (listeners?.delete(listener) !== true || listeners.size > 0) return;
    this.#listeners.delete(watch);
    if (this.#line !== undefined) removeInotifyWatch(this.#line.fd, watch);
    this.#closeIfUnused();
  }

  #open(): Line {
    const fd = openInotify();
    const cat = spawn("cat", [], { stdio: [fd, "pipe", "ignore"] });
    const line = { fd, cat };
    let rest: Buffer = Buffer.alloc(0);
    cat.stdout?.on("data", (bytes: Buffer) => {
      const parsed = parseInotify(rest.length === 0 ? bytes : Buffer.concat([rest, bytes]));
      rest = parsed.rest;
      for (const event of parsed.events) this.#dispatch(event);
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
    for (const listener of this.#listeners.get(event.watch) ?? []) listener.onEvent(event);
    if (event.mask & inotify.ignored) {
      this.#listeners.delete(event.watch);
      this.#closeIfUnused();
    }
  }

  #break(reason: string): void {
    const listeners = new Set([...this.#listeners.values()].flatMap((set) => [...set]));
    const error = new ConnectError(reason, Code.Internal);
    for (const listener of listeners) listener.onBroken(error);
    this.#listeners.clear();
    this.#closeIfUnused();
  }

  #closeIfUnused(): void {
    if (this.#listeners.size > 0 || this.#line === undefined) return;
    const { fd, cat } = this.#line;
    this.#line = undefined;
    closeSync(fd);
    cat.kill("SIGKILL");
  }
}
