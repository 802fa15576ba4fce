/**
 * The file operations of one client's request. Paths are those of the wire (path-name.ts).
 *
 * Operations run in a lane of the thread pool. When the client goes, what waits for a thread is
 * withdrawn, and what runs is left to the kernel: the request ends at once and no thread is taken for it
 * again.
 */
import type { BigIntStats, Dir, Dirent, Stats, StatsFs } from "node:fs";
import * as fs from "node:fs/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { type Xattr, makeNode, readXattrs, setFileTimes, writeXattr } from "@torpor/native";
import { toDiskPath, toWireText } from "./path-name.ts";
import { type LaneOperation, type ThreadLane, fileLane } from "./thread-lane.ts";

export interface FolderEntry {
  readonly name: string;
  /** False for a link to one. */
  readonly isFolder: boolean;
}

/** LIMIT: entries that one read of a folder brings. */
const entriesPerRead = 256;

export class FileWork {
  readonly #lane: ThreadLane;
  /** Waits for a thread of its lane, and be it for ever. */
  #isPatient = false;
  readonly #pending = new Set<Abandonable>();
  #hasLeft = false;

  /** `signal` aborts when the client goes; without one, `leave` says so. */
  constructor(signal?: AbortSignal, lane = fileLane) {
    this.#lane = lane;
    signal?.addEventListener("abort", () => this.leave(), { once: true });
    if (signal?.aborted === true) this.leave();
  }

  /** For what must be done to its end, whether or not its client is there. */
  static untilDone(): FileWork {
    const work = new FileWork();
    work.#isPatient = true;
    return work;
  }

  /** The client has gone. Safe to repeat. */
  leave(): void {
    this.#hasLeft = true;
    for (const operation of this.#pending) operation.giveUp();
    this.#pending.clear();
  }

  /** @throws ConnectError canceled when the client has gone */
  checkThere(): void {
    if (this.#hasLeft) throw gone();
  }

  /**
   * Runs one operation; `giveBack` takes a result that came after the client had gone.
   * @throws ConnectError canceled when the client has gone, aborted when the lane hangs.
   */
  async run<T>(start: () => Promise<T>, giveBack?: (late: T) => void): Promise<T> {
    this.checkThere();
    const operation = new Operation(start, giveBack, this.#lane, this.#pending);
    this.#lane.enter(operation, this.#isPatient);
    this.#pending.add(operation);
    return await operation.promise;
  }

  /**
   * Runs what must be done whether or not the client is there, after an operation that may hang. Its
   * failure is nobody's.
   */
  async cleanUp(after: Promise<unknown>, start: () => Promise<unknown>): Promise<void> {
    const done = this.#cleanUp(after, start);
    if (!this.#hasLeft) await done;
  }

  async #cleanUp(after: Promise<unknown>, start: () => Promise<unknown>): Promise<void> {
    await Promise.allSettled([after]);
    const operation = new Operation(start, undefined, this.#lane, new Set());
    this.#lane.enter(operation, true);
    await Promise.allSettled([operation.promise]);
  }

  async stat(path: string): Promise<Stats> {
    return await this.run(() => fs.stat(toDiskPath(path)));
  }

  async lstat(path: string): Promise<Stats> {
    return await this.run(() => fs.lstat(toDiskPath(path)));
  }

  async lstatExact(path: string): Promise<BigIntStats> {
    return await this.run(() => fs.lstat(toDiskPath(path), { bigint: true }));
  }

  async statfs(path: string): Promise<StatsFs> {
    return await this.run(() => fs.statfs(toDiskPath(path)));
  }

  async realpath(path: string): Promise<string> {
    return toWireText(await this.run(() => fs.realpath(toDiskPath(path), "buffer")));
  }

  async readlink(path: string): Promise<string> {
    return toWireText(await this.run(() => fs.readlink(toDiskPath(path), "buffer")));
  }

  async symlink(target: string, path: string): Promise<void> {
    await this.run(() => fs.symlink(toDiskPath(target), toDiskPath(path)));
  }

  async link(existing: string, path: string): Promise<void> {
    await this.run(() => fs.link(toDiskPath(existing), toDiskPath(path)));
  }

  async mknod(path: string, mode: number, device: number): Promise<void> {
    await this.run(() => makeNode(toDiskPath(path), mode, device));
  }

  async mkdir(path: string, mode: number): Promise<void> {
    await this.run(() => fs.mkdir(toDiskPath(path), mode));
  }

  async chown(path: string, uid: number, gid: number): Promise<void> {
    await this.run(() => fs.chown(toDiskPath(path), uid, gid));
  }

  async lchown(path: string, uid: number, gid: number): Promise<void> {
    await this.run(() => fs.lchown(toDiskPath(path), uid, gid));
  }

  async chmod(path: string, mode: number): Promise<void> {
    await this.run(() => fs.chmod(toDiskPath(path), mode));
  }

  /** A link's own. */
  async setTimes(path: string, accessedNs: bigint, modifiedNs: bigint): Promise<void> {
    await this.run(() => setFileTimes(toDiskPath(path), accessedNs, modifiedNs));
  }

  /** A link's own. */
  async readXattrs(path: string): Promise<readonly Xattr[]> {
    return await this.run(() => readXattrs(toDiskPath(path), { follow: false }));
  }

  /** A link's own. */
  async writeXattr(path: string, attribute: Xattr): Promise<void> {
    await this.run(() => writeXattr(toDiskPath(path), attribute, false));
  }

  async rename(from: string, to: string): Promise<void> {
    await this.run(() => fs.rename(toDiskPath(from), toDiskPath(to)));
  }

  async unlink(path: string): Promise<void> {
    await this.run(() => fs.unlink(toDiskPath(path)));
  }

  async rmdir(path: string): Promise<void> {
    await this.run(() => fs.rmdir(toDiskPath(path)));
  }

  async access(path: string, mode: number): Promise<void> {
    await this.run(() => fs.access(toDiskPath(path), mode));
  }

  /** Removes a file that this request has made, whether or not its client is there. */
  async discard(path: string): Promise<void> {
    await this.cleanUp(Promise.resolve(), () => fs.unlink(toDiskPath(path)));
  }

  /** What is in a folder, as the kernel gives it: in no order, a piece at a time. */
  async *entries(path: string): AsyncGenerator<FolderEntry, void, undefined> {
    let reading: Promise<Dirent<Buffer> | null> = Promise.resolve(null);
    const close = (dir: Dir): Promise<void> => this.cleanUp(reading, () => dir.close());
    const dir = await this.run(
      () => openFolder(path),
      (late) => void close(late),
    );
    try {
      for (;;) {
        const entry = await this.run(() => (reading = readFolder(dir)));
        if (entry === null) return;
        yield { name: toWireText(entry.name), isFolder: entry.isDirectory() };
      }
    } finally {
      await close(dir);
    }
  }
}

interface Abandonable {
  giveUp(): void;
}

class Operation<T> implements LaneOperation, Abandonable {
  readonly #start: () => Promise<T>;
  readonly #giveBack: ((late: T) => void) | undefined;
  readonly #lane: ThreadLane;
  readonly #pending: Set<Abandonable>;
  readonly #outcome = Promise.withResolvers<T>();
  #isLate = false;
  sinceMs = 0;

  constructor(
    start: () => Promise<T>,
    giveBack: ((late: T) => void) | undefined,
    lane: ThreadLane,
    pending: Set<Abandonable>,
  ) {
    this.#start = start;
    this.#giveBack = giveBack;
    this.#lane = lane;
    this.#pending = pending;
  }

  get promise(): Promise<T> {
    return this.#outcome.promise;
  }

  begin(): void {
    void this.#run();
  }

  async #run(): Promise<void> {
    try {
      const result = await this.#start();
      this.#end();
      if (this.#isLate) this.#giveBack?.(result);
      else this.#outcome.resolve(result);
    } catch (cause) {
      this.#end();
      this.#outcome.reject(cause);
    }
  }

  giveUp(): void {
    this.#isLate = true;
    this.#lane.withdraw(this);
    this.#outcome.reject(gone());
  }

  #end(): void {
    this.#pending.delete(this);
    this.#lane.leave(this);
  }
}

/** Node takes the encoding; its types do not. */
async function openFolder(path: string): Promise<Dir> {
  const encoding = "buffer" as BufferEncoding;
  return await fs.opendir(toDiskPath(path), { encoding, bufferSize: entriesPerRead });
}

async function readFolder(dir: Dir): Promise<Dirent<Buffer> | null> {
  return (await dir.read()) as Dirent<Buffer> | null;
}

function gone(): ConnectError {
  return new ConnectError("the client has gone", Code.Canceled);
}
