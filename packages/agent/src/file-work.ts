/**
 * The file operations of one client's request. Paths are those of the wire (path-name.ts).
 *
 * Operations run in a lane of the thread pool. When the client disconnects, operations that wait
 * for a thread are withdrawn, and those that run are left to the kernel: the request ends at once
 * and takes no thread again.
 */
import type { BigIntStats, Dir, Dirent, Stats, StatsFs } from "node:fs";
import * as fs from "node:fs/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { type Xattr, makeNode, readXattrs, setFileTimes, writeXattr } from "@torpor/native";
import { toDiskPath, toWireText } from "./path-name.ts";
import { type LaneOperation, type ThreadLane, fileLane } from "./thread-lane.ts";

/** One entry of a folder listing. */
export interface FolderEntry {
  readonly name: string;
  /** False for a link to a folder. */
  readonly isFolder: boolean;
}

/** LIMIT: entries fetched by one read of a folder. */
const entriesPerRead = 256;

/** Runs file operations on behalf of one client, until it disconnects. */
export class FileWork {
  readonly #lane: ThreadLane;
  /** Waits for a thread of its lane even if every thread hangs, perhaps for ever. */
  #isPatient = false;
  readonly #pending = new Set<Abandonable>();
  #hasLeft = false;

  /** `signal` aborts when the client disconnects; without a signal, the caller calls `leave`. */
  constructor(signal?: AbortSignal, lane = fileLane) {
    this.#lane = lane;
    signal?.addEventListener("abort", () => this.leave(), { once: true });
    if (signal?.aborted === true) this.leave();
  }

  /** For work that must be finished whether or not its client is still connected. */
  static untilDone(): FileWork {
    const work = new FileWork();
    work.#isPatient = true;
    return work;
  }

  /**
   * Withdraws what waits and rejects what runs, because the client has disconnected. Safe to
   * repeat.
   */
  leave(): void {
    this.#hasLeft = true;
    for (const operation of this.#pending) operation.giveUp();
    this.#pending.clear();
  }

  /** @throws ConnectError canceled when the client has disconnected */
  checkThere(): void {
    if (this.#hasLeft) throw gone();
  }

  /**
   * Runs one operation. `giveBack` receives a result that came after the client disconnected, to
   * release it.
   * @throws ConnectError canceled when the client has disconnected, aborted when the lane hangs.
   */
  async run<T>(start: () => Promise<T>, giveBack?: (late: T) => void): Promise<T> {
    this.checkThere();
    const operation = new Operation(start, giveBack, this.#lane, this.#pending);
    this.#lane.enter(operation, this.#isPatient);
    this.#pending.add(operation);
    return await operation.promise;
  }

  /**
   * Runs `start` whether or not the client is connected, once `after` has settled, which may never
   * happen. Nobody hears of its failure. Resolves at once if the client has disconnected.
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

  /** Does not follow a symbolic link. */
  async setTimes(path: string, accessedNs: bigint, modifiedNs: bigint): Promise<void> {
    await this.run(() => setFileTimes(toDiskPath(path), accessedNs, modifiedNs));
  }

  /** Does not follow a symbolic link. */
  async readXattrs(path: string): Promise<readonly Xattr[]> {
    return await this.run(() => readXattrs(toDiskPath(path), { follow: false }));
  }

  /** Does not follow a symbolic link. */
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

  /** Removes a file that this request has made, whether or not its client is still connected. */
  async discard(path: string): Promise<void> {
    await this.cleanUp(Promise.resolve(), () => fs.unlink(toDiskPath(path)));
  }

  /** Lists a folder in the kernel's order, which is arbitrary, a piece at a time. */
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

/** Node accepts the encoding "buffer" here; its types do not. */
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
