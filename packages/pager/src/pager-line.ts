/** The daemon's end of the line to one pager: orders go out, and each is answered with a status. */
import { once } from "node:events";
import { type Socket, createConnection } from "node:net";
import { createInterface } from "node:readline";
import { type Deadline, TorporError } from "@torpor/std";
import { type PagerStatus, parseStatus } from "./pager-status.ts";
import type { Order } from "./status-line.ts";

export class PagerLine {
  /** Settles when the line is closed, by whomever but `release`. */
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
    // What broke the line does not matter; that it did is seen by its close.
    socket.on("error", () => undefined);
    const lines = createInterface({ input: socket, terminal: false });
    lines.on("line", (line) => this.#take(line)).on("error", () => undefined);
    socket.unref();
  }

  /** Comes back when the pager has told its first status. @throws system error ECONNREFUSED, ENOENT */
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

  get pid(): number {
    return this.#latest?.pid ?? 0;
  }

  order(order: Order): void {
    if (!this.#socket.destroyed) this.#socket.write(`${order}\n`);
  }

  /**
   * @param isAnswer Whether a status is that of after the order: the pager also tells unasked.
   * @throws vmm.failed when the pager is gone, deadline.exceeded
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

  /** One that says what nobody understands, as another version may, is as good as gone. */
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
