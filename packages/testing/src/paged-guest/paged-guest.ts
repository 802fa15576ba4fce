/**
 * Stands in for a VM whose memory a pager serves, with a process and some threads: real page
 * faults, no guest. It ends with its owner, and waits for no page longer than the deadline.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Deadline } from "@torpor/std";
import type { GuestRegion, GuestTask, TaskResult } from "./task.ts";

/** Parameters of a paged guest. */
export interface GuestSpec {
  /** Sizes of the regions, in the order in which they lie in the saved memory. */
  readonly regionBytes: readonly number[];
  readonly threads: number;
  /** The pager's socket; without one nothing fills the memory. */
  readonly socketPath?: string;
  /** Maps this file privately instead, as QEMU does. */
  readonly imagePath?: string;
  /** The first thread runs it as soon as the pager may know of the memory. */
  readonly firstTask?: GuestTask;
  /** Sent in place of the true description of the memory. */
  readonly message?: string;
  /** The number of parts in which the message is sent. */
  readonly messageParts?: number;
}

/** The stand-in's process. */
export class PagedGuest implements AsyncDisposable {
  readonly #child: ChildProcess;
  #regions: readonly GuestRegion[] = [];
  /** The result of `firstTask`. */
  first: Promise<TaskResult> | undefined;

  private constructor(child: ChildProcess) {
    this.#child = child;
    // The process may be killed while it talks; its exit event reports that.
    child.on("error", () => undefined);
  }

  static async start(spec: GuestSpec, deadline: Deadline): Promise<PagedGuest> {
    const program = join(import.meta.dirname, "main.ts");
    const guest = new PagedGuest(fork(program, [JSON.stringify(spec)]));
    if (spec.firstTask !== undefined) {
      guest.first = guest.#resultOf(0, deadline);
      guest.first.catch(() => undefined); // the caller awaits it later
    }
    try {
      guest.#regions = (await guest.#answer(Array.isArray, deadline)) as readonly GuestRegion[];
      return guest;
    } catch (cause) {
      await guest[Symbol.asyncDispose]();
      throw cause;
    }
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get hasEnded(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** Runs one task per thread, all at once. */
  async run(tasks: readonly GuestTask[], deadline: Deadline): Promise<readonly TaskResult[]> {
    const results = tasks.map((_task, thread) => this.#resultOf(thread, deadline));
    for (const [thread, task] of tasks.entries()) this.#child.send({ thread, task });
    return await Promise.all(results);
  }

  /** How many pages of its own it has; the kernel's shared page of zeros does not count. */
  async ownPages(): Promise<number> {
    const smaps = await readFile(`/proc/${this.pid}/smaps`, "utf8");
    let ownKiB = 0;
    for (const mapping of smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
      const start = Number.parseInt(mapping, 16);
      const isMemory = this.#regions.some(
        ({ address, size }) => start >= address && start < address + size,
      );
      if (isMemory) ownKiB += Number(/^Anonymous:\s+(\d+) kB$/m.exec(mapping)?.[1] ?? 0);
    }
    return ownKiB / 4;
  }

  async waitForEnd(deadline: Deadline): Promise<void> {
    if (!this.hasEnded) await deadline.race(once(this.#child, "exit"));
  }

  end(): void {
    this.#child.kill("SIGKILL");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.hasEnded) return;
    const exit = once(this.#child, "exit");
    this.end();
    await exit;
  }

  async #resultOf(thread: number, deadline: Deadline): Promise<TaskResult> {
    const isIts = (message: unknown): boolean =>
      (message as { thread?: number } | undefined)?.thread === thread;
    const answer = await this.#answer(isIts, deadline);
    return (answer as { result: TaskResult }).result;
  }

  async #answer(isWanted: (message: unknown) => boolean, deadline: Deadline): Promise<unknown> {
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const onMessage = (message: unknown): void => {
      if (isWanted(message)) resolve(message);
    };
    const onExit = (): void => reject(new Error("the guest has ended"));
    this.#child.on("message", onMessage).once("exit", onExit);
    try {
      return await deadline.race(promise);
    } finally {
      this.#child.off("message", onMessage).off("exit", onExit);
    }
  }
}
