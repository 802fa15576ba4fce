/**
 * QEMU's control protocol (QMP) over its Unix socket: one JSON object a line each way.
 *
 * The client owns the connection and matches answers to commands. When the socket closes the
 * process has ended, which is noticed at once, also for a process that this one did not start.
 * Every command has a deadline; a command that QEMU refuses becomes `vmm.failed` with QEMU's own
 * words.
 */
import type { Socket } from "node:net";
import {
  type Deadline,
  type JsonObject,
  TorporError,
  parseJson,
  parseObject,
  shownValue,
} from "@torpor/std";
import { awaitRunSocket } from "../run-files.ts";

/** LIMIT: the longest answer used here is under 4 KiB. */
const lineBytesMax = 1 << 20;

interface Waiter {
  resolve(value: unknown): void;
  reject(error: unknown): void;
}

/** A QMP connection to one program. */
export class QmpClient {
  readonly #socket: Socket;
  readonly #waiters = new Map<number, Waiter>();
  readonly #closed: Promise<void>;
  #nextId = 1;
  #text = "";

  private constructor(socket: Socket) {
    this.#socket = socket;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#closed = promise;
    socket.setEncoding("utf8");
    socket.on("data", (chunk: string) => this.#receive(chunk));
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      for (const waiter of this.#waiters.values()) waiter.reject(connectionLost());
      this.#waiters.clear();
      resolve();
    });
  }

  /**
   * Waits for the socket to appear, as long as `alive` says that QEMU may still create it.
   * @throws vmm.exited
   */
  static async connect(path: string, alive: () => boolean, deadline: Deadline): Promise<QmpClient> {
    const client = new QmpClient(await awaitRunSocket(path, "QEMU", alive, deadline));
    await client.execute("qmp_capabilities", {}, deadline);
    return client;
  }

  /** Settles when QEMU's end of the socket is closed, or after `close`. */
  get closed(): Promise<void> {
    return this.#closed;
  }

  /**
   * Sends a command and returns its answer.
   * @throws vmm.failed if QEMU refuses, vmm.exited if it is gone.
   */
  async execute(command: string, args: JsonObject, deadline: Deadline): Promise<unknown> {
    if (this.#socket.destroyed) throw connectionLost();
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    this.#waiters.set(id, { resolve, reject });
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    try {
      return await deadline.race(promise);
    } finally {
      this.#waiters.delete(id);
    }
  }

  /** Sends a command to the human monitor; returns what it prints, which is empty for most. */
  async executeHuman(commandLine: string, deadline: Deadline): Promise<string> {
    const args = { "command-line": commandLine };
    const printed = await this.execute("human-monitor-command", args, deadline);
    return typeof printed === "string" ? printed.trim() : "";
  }

  /** Disconnects from the program, which keeps running. */
  close(): void {
    this.#socket.destroy();
  }

  #receive(chunk: string): void {
    const lines = (this.#text + chunk).split("\n");
    this.#text = lines.pop() ?? "";
    if (this.#text.length > lineBytesMax) this.#socket.destroy();
    try {
      for (const line of lines) {
        if (line.trim() !== "") {
          this.#dispatch(parseObject(parseJson(line, "QMP line"), "QMP line"));
        }
      }
    } catch {
      this.#socket.destroy(); // it does not speak QMP; the close rejects the waiters
    }
  }

  #dispatch(message: JsonObject): void {
    const waiter = this.#waiters.get(message["id"] as number);
    if (waiter === undefined) return; // the greeting or an event
    if ("error" in message) {
      const error = parseObject(message["error"], "QMP error");
      waiter.reject(new TorporError("vmm.failed", `QEMU refused: ${shownValue(error["desc"])}`));
    } else {
      waiter.resolve(message["return"]);
    }
  }
}

function connectionLost(): TorporError {
  return new TorporError("vmm.exited", "QEMU ended or closed its control socket");
}
