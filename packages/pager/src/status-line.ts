/**
 * The pager's end of the line to the daemon: a Unix socket in the run's folder, on which it sends
 * its status, one JSON object a line, and receives orders, one word a line.
 *
 * It sends its status when a client connects, when something of note has changed, and when asked.
 * If the daemon ends or is replaced, the pager is not affected: the next daemon connects.
 */
import { chmodSync, closeSync, rmSync } from "node:fs";
import { acceptUnix, listenUnix, receiveWithFds, trySend } from "@torpor/native";
import type { PagerStatus } from "./pager-status.ts";
import type { Watch } from "./watch.ts";

/** Words of the line: send the status, record the working set, end the pager and its VM. */
export const orders = ["tell", "saveWorkingSet", "end"] as const;
/** One of `orders`. */
export type Order = (typeof orders)[number];

/** LIMIT: bytes of orders read at once, and of an unfinished order. */
const receivedBytesMax = 4096;

/** The listening socket and its clients. */
export class StatusLine implements Disposable {
  readonly #path: string;
  readonly #watch: Watch;
  readonly #listener: number;
  readonly #clients = new Map<number, { text: string; readonly watched: Disposable }>();
  readonly #status: () => PagerStatus;
  readonly #onOrder: (order: Order) => void;

  constructor(
    path: string,
    watch: Watch,
    status: () => PagerStatus,
    onOrder: (order: Exclude<Order, "tell">) => void,
  ) {
    this.#path = path;
    this.#watch = watch;
    this.#status = status;
    this.#onOrder = (order) => (order === "tell" ? this.tell() : onOrder(order));
    rmSync(path, { force: true });
    this.#listener = listenUnix(path);
    chmodSync(path, 0o600);
    watch.add(this.#listener, () => this.#accept());
  }

  /**
   * Sends the status to all clients. A client that reads too slowly misses this one and gets the
   * next.
   */
  tell(): void {
    const bytes = Buffer.from(`${JSON.stringify(this.#status())}\n`);
    for (const fd of this.#clients.keys()) if (trySend(fd, bytes) === "gone") this.#drop(fd);
  }

  /**
   * ORDER: dispose of it last; a client that sees the line close may take everything as done, and
   * end the process.
   */
  [Symbol.dispose](): void {
    rmSync(this.#path, { force: true });
    closeSync(this.#listener);
    for (const fd of this.#clients.keys()) this.#drop(fd);
  }

  #accept(): void {
    const fd = acceptUnix(this.#listener);
    if (fd === undefined) return;
    this.#clients.set(fd, { text: "", watched: this.#watch.add(fd, () => this.#receive(fd)) });
    this.tell();
  }

  #receive(fd: number): void {
    const client = this.#clients.get(fd);
    const received = this.#read(fd);
    if (client === undefined || received === undefined) return;
    const lines = `${client.text}${received}`.split("\n");
    client.text = lines.pop() ?? "";
    if (received === "" || client.text.length > receivedBytesMax) {
      this.#drop(fd);
      return;
    }
    for (const line of lines) {
      const order = orders.find((word) => word === line);
      if (order !== undefined) this.#onOrder(order);
    }
  }

  /** @returns "" if the far end is gone, in whatever way; undefined if nothing has arrived. */
  #read(fd: number): string | undefined {
    try {
      const received = receiveWithFds(fd, receivedBytesMax);
      for (const one of received?.fds ?? []) closeSync(one);
      return received?.bytes.toString("latin1");
    } catch {
      return "";
    }
  }

  #drop(fd: number): void {
    this.#clients.get(fd)?.watched[Symbol.dispose]();
    this.#clients.delete(fd);
    closeSync(fd);
  }
}
