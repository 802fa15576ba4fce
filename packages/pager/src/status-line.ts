/**
 * The pager's end of the line to the daemon: a Unix socket in the run's folder, on which it tells its
 * status, a JSON object a line, and takes orders, a word a line.
 *
 * It tells when somebody connects, when something of note has changed, and when asked. A daemon that
 * ends, or is replaced, leaves the pager as it is: the next one connects.
 */
import { chmodSync, closeSync, rmSync } from "node:fs";
import { acceptUnix, listenUnix, receiveWithFds, trySend } from "@torpor/native";
import type { PagerStatus } from "./pager-status.ts";
import type { Watch } from "./watch.ts";

export const orders = ["tell", "saveWorkingSet", "end"] as const;
export type Order = (typeof orders)[number];

/** LIMIT: of orders taken at once. */
const receivedBytesMax = 4096;

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

  /** Who reads too slowly hears the next one. */
  tell(): void {
    const bytes = Buffer.from(`${JSON.stringify(this.#status())}\n`);
    for (const fd of this.#clients.keys()) if (trySend(fd, bytes) === "gone") this.#drop(fd);
  }

  /** ORDER: who hears the line close may take it that nothing is left, and end the process. */
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

  /** @returns "" when the far end is gone, in whatever way. */
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
