/**
 * Shares of Node's thread pool. A file operation occupies a thread until the kernel finishes it,
 * and on a mount whose server is dead the kernel never does.
 *
 * Each kind of work runs in a lane of its own, and all lanes together are narrower than the pool:
 * operations that hang in one lane leave the threads of the others free. Measured with Node 24: 12
 * more threads are 100 KiB of private memory, a second process would be 10 MiB and a copy of every
 * byte.
 *
 * Every operation that may touch a client's path runs in a lane. Work that cannot hang by itself
 * uses the pool directly: files that are open on the agent's own disk, compression, and writes to
 * terminals.
 */
import { performance } from "node:perf_hooks";
import { Code, ConnectError } from "@connectrpc/connect";

/** An operation that takes longer is not expected to end any more. */
const hungAfterMs = 10_000;

/** An operation in a lane, from `enter` to `leave`. */
export interface LaneOperation {
  /** SNAPSHOT: when it began, by a clock that stands still in a snapshot. */
  sinceMs: number;
  /** Called when a thread is free; the operation is in the lane then. */
  begin(): void;
}

/** A queue for a fixed number of threads. */
export class ThreadLane {
  readonly #name: string;
  readonly #width: number;
  readonly #running = new Set<LaneOperation>();
  readonly #waiting = new Set<LaneOperation>();

  constructor(name: string, width: number) {
    this.#name = name;
    this.#width = Math.max(1, Math.floor(width));
  }

  /** Whether no thread is free. */
  get isFull(): boolean {
    return this.#running.size >= this.#width;
  }

  /**
   * Begins an operation, at once or when a thread is free.
   * @throws ConnectError aborted when every thread hangs, unless it `mustRun`: then it waits,
   *   perhaps for ever.
   */
  enter(operation: LaneOperation, mustRun = false): void {
    if (!this.isFull) {
      this.#begin(operation);
      return;
    }
    if (!mustRun) this.#checkAlive();
    this.#waiting.add(operation);
  }

  /** Withdraws an operation that has not begun; returns whether it was still waiting. */
  withdraw(operation: LaneOperation): boolean {
    return this.#waiting.delete(operation);
  }

  /** Frees the thread of an operation that the kernel has finished, and begins the next one. */
  leave(operation: LaneOperation): void {
    this.#running.delete(operation);
    if (this.#waiting.size === 0 || this.isFull) return;
    const [next] = this.#waiting;
    if (next === undefined) return;
    this.#waiting.delete(next);
    this.#begin(next);
  }

  #begin(operation: LaneOperation): void {
    operation.sinceMs = performance.now();
    this.#running.add(operation);
    operation.begin();
  }

  #checkAlive(): void {
    const hungSinceMs = performance.now() - hungAfterMs;
    for (const { sinceMs } of this.#running) if (sinceMs > hungSinceMs) return;
    throw new ConnectError(
      `${this.#running.size} ${this.#name} hang in this sandbox, perhaps on a mount whose server is gone; unmount it`,
      Code.Aborted,
    );
  }
}

/** Where the environment sets nothing, libuv's own default. */
const poolThreads = Number(process.env["UV_THREADPOOL_SIZE"] ?? 4);

/** File operations of clients. */
export const fileLane = new ThreadLane("file operations", poolThreads / 2);
/** Checks before a command starts. */
export const startLane = new ThreadLane("starts of commands", poolThreads / 4);
