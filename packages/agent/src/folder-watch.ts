/**
 * Watches one folder, or a whole tree, and reports changes in the terms of the wire.
 *
 * A tree is a watch on each of its folders. A folder that appears later is watched as soon as its
 * creation is reported. Entries put into it before that are found by listing it, so that they are
 * reported late rather than never (and an entry made in that moment possibly twice).
 *
 * Listing a folder takes a thread, and other changes happen meanwhile. ORDER: each report waits
 * until the one before is handled, so that it finds the folders by the names they had then.
 */
import { join } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";
import { type InotifyEvent, inotify } from "@torpor/native";
import { EventType } from "@torpor/protocol";
import { systemCode } from "@torpor/std";
import { FileWork } from "./file-work.ts";
import type { FolderListener, InotifyHub } from "./inotify-hub.ts";
import { toWireText } from "./path-name.ts";
import { asConnectError } from "./system-errors.ts";

/** LIMIT: reports that wait while a folder is listed. */
const waitingReportsMax = 16_384;

/** The folder to watch, and the callbacks for its changes. */
export interface FolderWatchOptions {
  readonly root: string;
  readonly recursive: boolean;
  /** `name` is relative to the root. */
  readonly onEvent: (type: EventType, name: string) => void;
  /** Called once, when the watch has lost changes or cannot continue; it is closed then. */
  readonly onBroken: (error: ConnectError) => void;
}

/** If one report carries several changes, they are reported in this order. */
const typeByMask: readonly (readonly [number, EventType])[] = [
  [inotify.create | inotify.movedTo, EventType.CREATE],
  [inotify.movedFrom, EventType.RENAME],
  [inotify.attributes, EventType.CHMOD],
  [inotify.modify, EventType.WRITE],
  [inotify.delete, EventType.REMOVE],
];

/** The watch on one folder or tree, for one client. */
export class FolderWatch implements FolderListener {
  readonly #hub: InotifyHub;
  readonly #options: FolderWatchOptions;
  readonly #work = new FileWork();
  /** Folder of each watch, relative to the root, which is "". */
  readonly #folders = new Map<number, string>();
  readonly #reports: InotifyEvent[] = [];
  #isBusy = true;
  #isClosed = false;

  constructor(hub: InotifyHub, options: FolderWatchOptions) {
    this.#hub = hub;
    this.#options = options;
  }

  /**
   * Resolves when it watches.
   * @throws ConnectError not_found, invalid_argument; the watch is closed then.
   */
  async open(): Promise<void> {
    try {
      await this.#addFolder("");
      if (this.#options.recursive) await this.#addFoldersIn("", false);
    } catch (cause) {
      this.close();
      throw asConnectError(cause, this.#options.root);
    }
    this.#isBusy = false;
    this.#tellReports();
  }

  /** Ends the watch. Safe to repeat. */
  close(): void {
    this.#isClosed = true;
    this.#work.leave();
    this.#reports.length = 0;
    for (const watch of this.#folders.keys()) this.#hub.remove(watch, this);
    this.#folders.clear();
  }

  onEvent(event: InotifyEvent): void {
    this.#reports.push(event);
    if (this.#reports.length > waitingReportsMax) {
      this.#break(new ConnectError("too many changes at once", Code.DataLoss));
    }
    this.#tellReports();
  }

  onBroken(error: ConnectError): void {
    this.#folders.clear();
    this.#break(error);
  }

  #break(error: ConnectError): void {
    if (this.#isClosed) return;
    this.close();
    this.#options.onBroken(error);
  }

  #tellReports(): void {
    while (!this.#isBusy) {
      const report = this.#reports.shift();
      if (report === undefined) return;
      const looking = this.#tell(report);
      if (looking === undefined) continue;
      this.#isBusy = true;
      void this.#waitFor(looking);
    }
  }

  async #waitFor(looking: Promise<void>): Promise<void> {
    try {
      await looking;
      this.#isBusy = false;
      this.#tellReports();
    } catch (cause) {
      // A change that is not reported would leave a gap.
      this.#break(asConnectError(cause, this.#options.root));
    }
  }

  /** Reports one change. Returns a promise if it has to list a folder first. */
  #tell(event: InotifyEvent): Promise<void> | undefined {
    const folder = this.#folders.get(event.watch);
    if (folder === undefined) return undefined;
    if (event.mask & inotify.ignored) this.#folders.delete(event.watch);
    if (event.name.length === 0) {
      const isRoot = folder === "";
      if (isRoot && event.mask & inotify.deleteSelf) this.#options.onEvent(EventType.REMOVE, ".");
      if (isRoot && event.mask & inotify.moveSelf) this.#options.onEvent(EventType.RENAME, ".");
      return undefined;
    }
    const name = join(folder, toWireText(event.name));
    for (const [mask, type] of typeByMask) {
      if (event.mask & mask) this.#options.onEvent(type, name);
    }
    if (!this.#options.recursive || !(event.mask & inotify.isFolder)) return undefined;
    if (event.mask & inotify.movedFrom) this.#forgetTree(name);
    return event.mask & (inotify.create | inotify.movedTo) ? this.#addTree(name, true) : undefined;
  }

  async #addFolder(name: string): Promise<void> {
    const watch = await this.#hub.add(join(this.#options.root, name), this, this.#work);
    if (this.#isClosed) this.#hub.remove(watch, this);
    else this.#folders.set(watch, name);
  }

  async #addTree(name: string, report: boolean): Promise<void> {
    try {
      await this.#addFolder(name);
      await this.#addFoldersIn(name, report);
    } catch (cause) {
      // A folder that vanished again has been reported as removed.
      if (systemCode(cause) !== "ENOENT" && systemCode(cause) !== "ENOTDIR") throw cause;
    }
  }

  async #addFoldersIn(folder: string, report: boolean): Promise<void> {
    for await (const entry of this.#work.entries(join(this.#options.root, folder))) {
      const name = join(folder, entry.name);
      if (report) this.#options.onEvent(EventType.CREATE, name);
      if (entry.isFolder) await this.#addTree(name, report);
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
