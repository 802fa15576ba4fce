/**
 * The daemon's end: starts a VM's pager, hears of it, and sees to it that no VM outlives its pager.
 *
 * A pager is a process of its own that outlives the daemon, as the VM does; the next daemon adopts it by
 * the line it listens on. When it is gone, for whatever reason but the VM's own end, `endVm` is called:
 * a guest without a pager stands still at the next page it touches. `ended` tells why.
 *
 *     await using pager = await PagerProcess.start(options, () => vm.end(…), deadline);
 *     …                                       // the VMM connects to options.vmSocketPath
 *     await pager.saveWorkingSet(deadline);   // the guest is ready: what it touched is worth a record
 *     (await pager.status(deadline)).prefetchPhase
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { Deadline, TorporError, ignoreFailure } from "@torpor/std";
import { type PagerEnd, readLastWords } from "./last-words.ts";
import { PagerLine } from "./pager-line.ts";
import { type PagerOptions, linePath, logPath } from "./pager-options.ts";
import type { PagerStatus } from "./pager-status.ts";

const dialPauseMs = 5;
/** A line that broke is dialled again within this. */
const redialBudgetMs = 2_000;
const disposeBudgetMs = 5_000;

export class PagerProcess implements AsyncDisposable {
  /** Settles when the pager is gone, and its VM with it. Never rejects; never settles after `release`. */
  readonly ended: Promise<PagerEnd>;
  readonly #runFolder: string;
  #line: PagerLine;

  private constructor(line: PagerLine, runFolder: string, endVm: () => Promise<void>) {
    this.#line = line;
    this.#runFolder = runFolder;
    this.ended = this.#supervise(endVm);
  }

  /**
   * The pager listens for the VMM once this returns.
   * @throws snapshot.corrupt when the memory cannot be served; deadline.exceeded
   */
  static async start(
    options: PagerOptions,
    endVm: () => Promise<void>,
    deadline: Deadline,
  ): Promise<PagerProcess> {
    const { runFolder } = options;
    const child = spawnPager(options);
    try {
      return new PagerProcess(await dial(runFolder, child, deadline), runFolder, endVm);
    } catch (cause) {
      child.kill("SIGKILL");
      throw cause;
    }
  }

  /** @throws vmm.failed when there is no pager any more: the VM is to be ended. */
  static async adopt(
    runFolder: string,
    endVm: () => Promise<void>,
    deadline: Deadline,
  ): Promise<PagerProcess> {
    const line = await PagerLine.connect(linePath(runFolder), deadline).catch((cause: unknown) => {
      throw new TorporError("vmm.failed", "the VM's pager is gone", { cause });
    });
    return new PagerProcess(line, runFolder, endVm);
  }

  get pid(): number {
    return this.#line.pid;
  }

  /** As of now. @throws vmm.failed when the pager is gone. */
  status(deadline: Deadline): Promise<PagerStatus> {
    return this.#line.ask("tell", deadline);
  }

  /**
   * Records what the guest has touched up to now, and lets the rest of memory be fetched.
   * @returns As of then; `remark` says why, if nothing could be recorded.
   */
  saveWorkingSet(deadline: Deadline): Promise<PagerStatus> {
    return this.#line.ask("saveWorkingSet", deadline);
  }

  /** Ends it, and its VM if that still runs. Safe to repeat. */
  async end(deadline: Deadline): Promise<void> {
    this.#line.order("end");
    const own = deadline.sub(deadline.remainingMs() / 2, "the pager's own end");
    await ignoreFailure("it is ended otherwise", own.race(this.ended));
    // An open line is its own: the number belongs to nobody else.
    if (this.#line.isOpen) process.kill(this.pid, "SIGKILL");
    await deadline.race(this.ended);
  }

  /** Lets go of the process, which runs on. */
  release(): void {
    this.#line.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end(Deadline.after(disposeBudgetMs, "ending a pager"));
  }

  async #supervise(endVm: () => Promise<void>): Promise<PagerEnd> {
    for (let line: PagerLine | undefined = this.#line; line !== undefined;) {
      await line.closed;
      line = await this.#redial();
    }
    const end = await readLastWords(this.#runFolder);
    if (end.kind === "failed") await ignoreFailure("the pager's failure is reported", endVm());
    return end;
  }

  /** Who is gone refuses, or has removed the socket. */
  async #redial(): Promise<PagerLine | undefined> {
    const deadline = Deadline.after(redialBudgetMs, "dialling a pager again");
    try {
      this.#line = await PagerLine.connect(linePath(this.#runFolder), deadline);
      return this.#line;
    } catch {
      return undefined;
    }
  }
}

/** Not a child that ends with the daemon. */
function spawnPager(options: PagerOptions): ChildProcess {
  const log = openSync(logPath(options.runFolder), "w", 0o600);
  try {
    const argv = ["--max-semi-space-size=1", join(import.meta.dirname, "main.ts")];
    const child = spawn(process.execPath, argv, { detached: true, stdio: ["pipe", "ignore", log] });
    child.stdin?.on("error", () => undefined); // it ended before it read them, and says why
    child.stdin?.end(JSON.stringify(options));
    child.unref();
    return child;
  } finally {
    closeSync(log);
  }
}

async function dial(
  runFolder: string,
  child: ChildProcess,
  deadline: Deadline,
): Promise<PagerLine> {
  for (;;) {
    if (child.exitCode !== null || child.signalCode !== null) {
      const end = await readLastWords(runFolder);
      throw end.kind === "failed" ? end.error : new TorporError("vmm.failed", "the pager left");
    }
    try {
      return await PagerLine.connect(linePath(runFolder), deadline);
    } catch {
      deadline.check();
      await deadline.sleep(dialPauseMs);
    }
  }
}
