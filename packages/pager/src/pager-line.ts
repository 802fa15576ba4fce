/**
 * The daemon's end of the line to one pager: the daemon sends orders, and the pager answers each
 * with a status.
 */
import { once } from "node:events";
import { type Socket, createConnection } from "node:net";
import { createInterface } from "node:readline";
import { type Deadline, TorporError } from "@torpor/std";
import { type PagerStatus, parseStatus } from "./pager-status.ts";
import type { Order } from "./status-line.ts";

/** A connection to one pager. */
export class PagerLine {
  /** Settles when the line is closed by anything but `release`. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #waiting: ((status: PagerStatus) => void)[] = [];
  #latest: PagerStatus | undefined;
  #released = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    socket.once("close", () => {
      if (!this.#released) resolve();
    });
    // The cause does not matter; the close that follows reports the broken line.
    socket.on("error", () => undefined);
    const lines = createInterface({ input: socket, terminal: false });
    lines.on("line", (line) => this.#take(line)).on("error", () => undefined);
    socket.unref();
  }

  /**
   * Connects, and returns when the pager has sent its first status.
   * @throws system error ECONNREFUSED, ENOENT; deadline.exceeded
   */
  static async connect(path: string, deadline: Deadline): Promise<PagerLine> {
    const socket = createConnection(path);
    try {
      await once(socket, "connect", { signal: deadline.signal });
      const line = new PagerLine(socket);
      await line.#next(deadline);
      return line;
    } catch (cause) {
      socket.destroy();
      throw cause;
    }
  }

  /** The pager's process id, from its latest status. */
  get pid(): number {
    return this.#latest?.pid ?? 0;
  }

  /** Sends an order without waiting for the answer. Does nothing if the line is closed. */
  order(order: Order): void {
    if (!this.#socket.destroyed) this.#socket.write(`${order}\n`);
  }

  /**
   * Sends an order and waits for the status that answers it.
   * @param isAnswer Whether a status is from after the order: the pager also sends statuses
   * unasked.
   * @throws vmm.failed if the pager is gone, deadline.exceeded
   */
  async ask(
    order: Order,
    isAnswer: (status: PagerStatus) => boolean,
    deadline: Deadline,
  ): Promise<PagerStatus> {
    this.order(order);
    for (;;) {
      const status = await this.#next(deadline);
      if (isAnswer(status)) return status;
    }
  }

  /** Closes the line; `closed` never settles then. */
  release(): void {
    this.#released = true;
    this.#socket.destroy();
  }

  async #next(deadline: Deadline): Promise<PagerStatus> {
    const { promise, resolve } = Promise.withResolvers<PagerStatus>();
    this.#waiting.push(resolve);
    const gone = this.closed.then(() => {
      throw new TorporError("vmm.failed", "the VM's pager is gone");
    });
    return await deadline.race(Promise.race([promise, gone]));
  }

  /** A pager whose status cannot be parsed, perhaps of another version, is treated as gone. */
  #take(line: string): void {
    try {
      const status = parseStatus(line);
      this.#latest = status;
      for (const tell of this.#waiting.splice(0)) tell(status);
    } catch {
      this.#socket.destroy();
    }
  }
}
