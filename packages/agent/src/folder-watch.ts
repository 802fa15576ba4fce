/**
 * Watches one folder, or a whole tree, and tells what happened in the terms of the wire.
 *
 * A tree is a watch on each of its folders. A folder that appears later is watched as soon as its
 * creation is reported; whatever was put into it before that is found by looking, so that it is
 * reported late rather than never (and an entry made in that moment possibly twice).
 */
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { ConnectError } from "@connectrpc/connect";
import { type InotifyEvent, inotify } from "@torpor/native";
import { EventType } from "@torpor/protocol";
import type { FolderListener, InotifyHub } from "./inotify-hub.ts";
import { asConnectError } from "./system-errors.ts";

export interface FolderWatchOptions {
  readonly root: string;
  readonly recursive: boolean;
  /** `name` is relative to the root. */
  readonly onEvent: (type: EventType, name: string) => void;
  readonly onBroken: (error: ConnectError) => void;
}

/** In the order in which several in one report are told. */
const typeByMask: readonly (readonly [number, EventType])[] = [
  [inotify.create | inotify.movedTo, EventType.CREATE],
  [inotify.movedFrom, EventType.RENAME],
  [inotify.attributes, EventType.CHMOD],
  [inotify.modify, EventType.WRITE],
  [inotify.delete, EventType.REMOVE],
];

export class FolderWatch implements FolderListener {
  readonly #hub: InotifyHub;
  readonly #options: FolderWatchOptions;
  /** Folder of each watch, relative to the root, which is "". */
  readonly #folders = new Map<number, string>();

  /** @throws ConnectError not_found, invalid_argument */
  constructor(hub: InotifyHub, options: FolderWatchOptions) {
    this.#hub = hub;
    this.#options = options;
    try {
      this.#folders.set(hub.add(options.root, this), "");
      if (options.recursive) this.#addFoldersIn("", false);
    } catch (cause) {
      this.close();
      throw asConnectError(cause, options.root);
    }
  }

  /** Safe to repeat. */
  close(): void {
    for (const watch of this.#folders.keys()) this.#hub.remove(watch, this);
    this.#folders.clear();
  }

  onEvent(event: InotifyEvent): void {
    const folder = this.#folders.get(event.watch);
    if (folder === undefined) return;
    if (event.mask & inotify.ignored) this.#folders.delete(event.watch);
    if (event.name === "") {
      const isRoot = folder === "";
      if (isRoot && event.mask & inotify.deleteSelf) this.#options.onEvent(EventType.REMOVE, ".");
      if (isRoot && event.mask & inotify.moveSelf) this.#options.onEvent(EventType.RENAME, ".");
      return;
    }
    const name = join(folder, event.name);
    for (const [mask, type] of typeByMask) {
      if (event.mask & mask) this.#options.onEvent(type, name);
    }
    if (!this.#options.recursive || !(event.mask & inotify.isFolder)) return;
    if (event.mask & inotify.movedFrom) this.#forgetTree(name);
    if (event.mask & (inotify.create | inotify.movedTo)) this.#addTree(name, true);
  }

  onBroken(error: ConnectError): void {
    this.#folders.clear();
    this.#options.onBroken(error);
  }

  #addTree(name: string, report: boolean): void {
    try {
      this.#folders.set(this.#hub.add(join(this.#options.root, name), this), name);
      this.#addFoldersIn(name, report);
    } catch (cause) {
      const error = asConnectError(cause, name);
      // One that vanished again has been reported as removed; anything else leaves a hole.
      if (!isGone(cause)) this.#options.onBroken(error);
    }
  }

  #addFoldersIn(folder: string, report: boolean): void {
    const entries = readdirSync(join(this.#options.root, folder), { withFileTypes: true });
    for (const entry of entries) {
      const name = join(folder, entry.name);
      if (report) this.#options.onEvent(EventType.CREATE, name);
      if (entry.isDirectory()) this.#addTree(name, report);
    }
  }

  #forgetTree(name: string): void {
    for (const [watch, folder] of this.#folders) {
      if (folder !== name && !folder.startsWith(`${name}/`)) continue;
      this.#folders.delete(watch);
      this.#hub.remove(watch, this);
    }
  }
}

function isGone(cause: unknown): boolean {
  return cause instanceof Error && "code" in cause && /^(ENOENT|ENOTDIR)$/.test(String(cause.code));
}
