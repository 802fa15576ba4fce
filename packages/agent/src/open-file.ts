/**
 * A regular file that is open for one request.
 *
 * What a path names is looked at before it is opened, because opening alone wakes the other end of a pipe
 * or starts a device, and again afterwards, because it may have changed. It is opened without waiting, so
 * that nothing that took its place can hold a thread.
 */
import { type Stats, constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { nextDataRange } from "@torpor/native";
import { systemCode } from "@torpor/std";
import type { FileWork } from "./file-work.ts";
import { toDiskPath } from "./path-name.ts";
import { isOnDisk } from "./root-disk.ts";

export class OpenFile implements AsyncDisposable {
  readonly #work: FileWork;
  readonly #handle: FileHandle;
  /** Of when it was opened. */
  readonly stats: Stats;
  readonly #isOnDisk: boolean;
  /** The operation that runs; one that hangs holds the file open until it ends. */
  #running: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  private constructor(work: FileWork, handle: FileHandle, stats: Stats) {
    this.#work = work;
    this.#handle = handle;
    this.stats = stats;
    this.#isOnDisk = isOnDisk(stats);
  }

  /** @throws ConnectError invalid_argument for what is no regular file; system error */
  static async read(path: string, work: FileWork): Promise<OpenFile> {
    checkRegular(await work.stat(path), path);
    return await OpenFile.#open(path, constants.O_RDONLY, 0, work);
  }

  /** Opens or makes a file, and leaves what is in it. @throws as `read` */
  static async write(path: string, mode: number, work: FileWork): Promise<OpenFile> {
    return await OpenFile.#open(path, constants.O_WRONLY | constants.O_CREAT, mode, work);
  }

  /** @throws system error: EEXIST */
  static async create(path: string, mode: number, work: FileWork): Promise<OpenFile> {
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
    return await OpenFile.#open(path, flags, mode, work);
  }

  static async #open(path: string, flags: number, mode: number, work: FileWork): Promise<OpenFile> {
    const flagsHere = flags | constants.O_NONBLOCK | constants.O_NOCTTY;
    const close = async (opened: FileHandle): Promise<void> =>
      await work.cleanUp(Promise.resolve(), () => opened.close());
    await using undo = new AsyncDisposableStack();
    const handle = await work.run(
      () => open(toDiskPath(path), flagsHere, mode),
      (late) => void close(late),
    );
    undo.adopt(handle, close);
    const stats = await work.run(() => handle.stat());
    checkRegular(stats, path);
    undo.move();
    return new OpenFile(work, handle, stats);
  }

  /**
   * Reads some bytes, as many as fit unless there are fewer; none at the end, or where there is nothing
   * to read yet. Without a position it reads on: some files of the kernel know no other way.
   */
  async read(into: Buffer, position: number | null): Promise<Buffer> {
    try {
      const { bytesRead } = await this.#run((file) => file.read(into, 0, into.length, position));
      return into.subarray(0, bytesRead);
    } catch (cause) {
      // Files of the kernel that tell events, as /proc/kmsg.
      if (systemCode(cause) === "EAGAIN") return into.subarray(0, 0);
      throw cause;
    }
  }

  /** Writes all of some bytes, without a position to where it stands. */
  async write(bytes: Buffer, position: number | null = null): Promise<void> {
    await this.#run((file) => writeAll(file, bytes, position));
  }

  /** The first part at or behind `from` that is no hole. Moves the place where the file stands. */
  async nextDataRange(from: number): Promise<{ start: number; end: number } | undefined> {
    return await this.#run((file) => nextDataRange(file.fd, from));
  }

  /**
   * Replaces the whole content, in one operation that runs to its end. What makes the file grow comes
   * first: it needs room, and is cut off again where there is none.
   * @throws system error ENOSPC, EDQUOT with the content as it was
   */
  async replace(bytes: Buffer): Promise<void> {
    const { size } = this.stats;
    await this.#run(async (file) => {
      try {
        await writeAll(file, bytes.subarray(size), size);
      } catch (cause) {
        await file.truncate(size);
        throw cause;
      }
      await writeAll(file, bytes.subarray(0, size), 0);
      if (bytes.length < size) await file.truncate(bytes.length);
    });
  }

  async truncate(bytes: number): Promise<void> {
    await this.#run((file) => file.truncate(bytes));
  }

  async chown(uid: number, gid: number): Promise<void> {
    await this.#run((file) => file.chown(uid, gid));
  }

  async chmod(mode: number): Promise<void> {
    await this.#run((file) => file.chmod(mode));
  }

  /** For what was written: some file systems tell only now that it failed. @throws system error */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#run((file) => file.close());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed) return;
    await this.#work.cleanUp(this.#running, () => this.#handle.close());
  }

  /** On the disk an operation ends soon, and needs no lane, which costs as much as a small write does. */
  #run<T>(operation: (file: FileHandle) => Promise<T>): Promise<T> {
    if (!this.#isOnDisk) return this.#work.run(() => this.#begin(operation));
    this.#work.checkThere();
    return this.#begin(operation);
  }

  #begin<T>(operation: (file: FileHandle) => Promise<T>): Promise<T> {
    const running = operation(this.#handle);
    this.#running = running;
    return running;
  }
}

/** One call of the system may write less. Without a position it writes where the file stands. */
async function writeAll(file: FileHandle, bytes: Buffer, position: number | null): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    const to = position === null ? null : position + at;
    const { bytesWritten } = await file.write(bytes, at, null, to);
    at += bytesWritten;
  }
}

function checkRegular(stats: Stats, path: string): void {
  if (stats.isFile()) return;
  const kind = stats.isDirectory() ? "a directory" : "not a regular file";
  throw new ConnectError(`path is ${kind}: '${path}'`, Code.InvalidArgument);
}
