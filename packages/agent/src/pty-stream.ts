/**
 * The agent's end of a terminal: emits what the process prints, and types what clients send.
 *
 * Node's terminal stream reads it, on the event loop. It cannot write: libuv treats the master as a
 * blocking stream and would spin while the process does not read its input. So the agent writes by
 * plain calls that fail when the terminal is full, and retries a little later.
 */
import { write } from "node:fs";
import { ReadStream } from "node:tty";
import { promisify } from "node:util";
import { resizePty } from "@torpor/native";
import { systemCode } from "@torpor/std";
import type { QuietTimers } from "./quiet-timers.ts";

const writeSome = promisify(write);
/** How long to wait before typing into a full terminal again. */
const retryMs = 10;

/** The master of one terminal, which this owns. */
export class PtyStream {
  readonly #fd: number;
  readonly #timers: QuietTimers;
  readonly #reader: ReadStream;
  /** The end of the queue of writes: each waits for the one before it. */
  #lastWrite: Promise<void> = Promise.resolve();
  #closed = false;

  /** Takes over `masterFd`, and closes it at the end. */
  constructor(masterFd: number, timers: QuietTimers) {
    this.#fd = masterFd;
    this.#timers = timers;
    this.#reader = new ReadStream(masterFd);
    // EIO is how a master reports that its last slave is gone; "close" follows.
    this.#reader.on("error", () => undefined);
    this.#reader.on("close", () => {
      this.#closed = true;
    });
  }

  /** Stream of what the process prints. */
  get reader(): ReadStream {
    return this.#reader;
  }

  /**
   * Types the bytes in; resolves when the terminal has taken all.
   * @throws Error when the terminal is gone.
   */
  async write(bytes: Uint8Array): Promise<void> {
    const turn = this.#lastWrite.then(() => this.#writeAll(bytes));
    this.#lastWrite = turn.catch(() => undefined);
    await turn;
  }

  /** Sets the size of the window, in characters. Does nothing after the end. */
  resize(cols: number, rows: number): void {
    if (!this.#closed) resizePty(this.#fd, cols, rows);
  }

  /** Closes the master; its processes get SIGHUP. Safe to repeat. */
  destroy(): void {
    this.#closed = true;
    this.#reader.destroy();
  }

  async #writeAll(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      // The number of a closed descriptor may already belong to another file.
      if (this.#closed) throw new TypeError("the terminal is closed");
      try {
        const { bytesWritten } = await writeSome(this.#fd, bytes, at, bytes.length - at);
        at += bytesWritten;
      } catch (cause) {
        if (systemCode(cause) !== "EAGAIN") throw cause;
        const { promise, resolve } = Promise.withResolvers<void>();
        this.#timers.after(retryMs, resolve);
        await promise;
      }
    }
  }
}
