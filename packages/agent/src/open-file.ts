/**
 * A regular file that is open for one request.
 *
 * The path is checked before it is opened, because opening alone wakes the other end of a pipe or
 * starts a device, and again afterwards, because it may have changed. The file is opened without
 * blocking, so that nothing that took its place can hold a thread.
 */
import { type Stats, constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { Code, ConnectError } from "@connectrpc/connect";
import { nextDataRange } from "@torpor/native";
import { systemCode } from "@torpor/std";
import type { FileWork } from "./file-work.ts";
import { toDiskPath } from "./path-name.ts";
import { isOnDisk } from "./root-disk.ts";

/** One open file, used on behalf of the client of its `FileWork`. Disposing closes it. */
export class OpenFile implements AsyncDisposable {
  readonly #work: FileWork;
  readonly #handle: FileHandle;
  /** As they were when it was opened. */
  readonly stats: Stats;
  readonly #isOnDisk: boolean;
  /** The operation that runs now; one that hangs keeps the file open until it ends. */
  #running: Promise<unknown> = Promise.resolve();
  #isClosed = false;

  private constructor(work: FileWork, handle: FileHandle, stats: Stats) {
    this.#work = work;
    this.#handle = handle;
    this.stats = stats;
    this.#isOnDisk = isOnDisk(stats);
  }

  /**
   * Opens a file to read.
   * @throws ConnectError invalid_argument for anything but a regular file; system error
   */
  static async read(path: string, work: FileWork): Promise<OpenFile> {
    checkRegular(await work.stat(path), path);
    return await OpenFile.#open(path, constants.O_RDONLY, 0, work);
  }

  /**
   * Opens a file to write, with its content unchanged, or creates it with `mode`.
   * @throws as `read`
   */
  static async write(path: string, mode: number, work: FileWork): Promise<OpenFile> {
    return await OpenFile.#open(path, constants.O_WRONLY | constants.O_CREAT, mode, work);
  }

  /** Creates a file to write. @throws as `read`; system error EEXIST */
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
   * Reads as many bytes as fit into the buffer, unless the file has fewer; none at the end, or if
   * there is nothing to read yet. Without a position it reads sequentially: some files of the
   * kernel allow nothing else.
   */
  async read(into: Buffer, position: number | null): Promise<Buffer> {
    try {
      const { bytesRead } = await this.#run((file) => file.read(into, 0, into.length, position));
      return into.subarray(0, bytesRead);
    } catch (cause) {
      // Files of the kernel that report events, such as /proc/kmsg.
      if (systemCode(cause) === "EAGAIN") return into.subarray(0, 0);
      throw cause;
    }
  }

  /** Writes all the bytes, without a position at the file's current one. */
  async write(bytes: Buffer, position: number | null = null): Promise<void> {
    await this.#run((file) => writeAll(file, bytes, position));
  }

  /** The first range at or after `from` that is not a hole. Moves the file's current position. */
  async nextDataRange(from: number): Promise<{ start: number; end: number } | undefined> {
    return await this.#run((file) => nextDataRange(file.fd, from));
  }

  /**
   * Replaces the whole content, in one operation that runs to its end. It first appends what makes
   * the file longer, because that needs room, and truncates again if there is none.
   * @throws system error ENOSPC, EDQUOT with the content unchanged
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

  /**
   * Closes a file that was written: some file systems report a failed write only now.
   * @throws system error
   */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#run((file) => file.close());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#isClosed) return;
    await this.#work.cleanUp(this.#running, () => this.#handle.close());
  }

  /**
   * On the agent's own disk an operation ends soon and needs no lane, which costs as much as a
   * small write.
   */
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

/**
 * Writes everything, because one system call may write less. Without a position it writes at the
 * current one.
 */
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
