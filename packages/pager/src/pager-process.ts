/**
 * The daemon's end: starts a VM's pager, hears of it, and tells when it is gone.
 *
 * A pager is a process of its own that outlives the daemon, as the VM does; the next daemon adopts it by
 * the line it listens on, and a stray one is found by its name and the run's folder in the process list.
 * When it is gone, for whatever reason but the VM's own end, the VM is to be ended: a guest without a
 * pager stands still at the next page it touches. `ended` tells why.
 *
 *     await using pager = await PagerProcess.start(options, deadline);
 *     pager.ended.then(({ kind }) => kind === "failed" && vm.end(…));
 *     …                                       // the VMM connects to options.vmSocketPath
 *     await pager.saveWorkingSet(deadline);   // the guest is ready: what it touched is worth a record
 *     (await pager.status(deadline)).prefetchPhase
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { Deadline, TorporError, ignoreFailure } from "@torpor/std";
import { type ProcessName, endProcess, nameProcess, pagerProcessName } from "@torpor/vmm";
import { type PagerEnd, readLastWords } from "./last-words.ts";
import { PagerLine } from "./pager-line.ts";
import {
  type PagerOptions,
  linePath,
  logPath,
  readOptions,
  writeOptions,
} from "./pager-options.ts";
import type { PagerStatus } from "./pager-status.ts";
import type { SavedMemoryFiles } from "./page-source.ts";

const dialPauseMs = 5;
/** A line that broke is dialled again within this. */
const redialBudgetMs = 2_000;
const disposeBudgetMs = 5_000;

export class PagerProcess implements AsyncDisposable {
  /** Settles when the pager is gone. Never rejects; never settles after `release`. */
  readonly ended: Promise<PagerEnd>;
  /** What it serves. */
  readonly memory: SavedMemoryFiles;
  readonly #runFolder: string;
  readonly #process: ProcessName | undefined;
  #line: PagerLine;
  #isReleased = false;

  private constructor(line: PagerLine, { runFolder, memory }: PagerOptions) {
    this.#line = line;
    this.#process = nameProcess(line.pid); // an open line is its own: the number belongs to nobody else
    this.#runFolder = runFolder;
    this.memory = memory;
    this.ended = this.#untilGone();
  }

  /**
   * The pager listens for the VMM once this returns.
   * @throws snapshot.corrupt when the memory cannot be served; deadline.exceeded
   */
  static async start(options: PagerOptions, deadline: Deadline): Promise<PagerProcess> {
    writeOptions(options);
    const child = spawnPager(options.runFolder);
    try {
      return new PagerProcess(await dial(options.runFolder, child, deadline), options);
    } catch (cause) {
      child.kill("SIGKILL");
      throw cause;
    }
  }

  /** @throws vmm.failed when there is no pager any more: the VM is to be ended. */
  static async adopt(runFolder: string, deadline: Deadline): Promise<PagerProcess> {
    const options = readOptions(runFolder);
    const line = await PagerLine.connect(linePath(runFolder), deadline).catch((cause: unknown) => {
      throw new TorporError("vmm.failed", "the VM's pager is gone", { cause });
    });
    return new PagerProcess(line, options);
  }

  get pid(): number {
    return this.#line.pid;
  }

  /** As of now. @throws vmm.failed when the pager is gone. */
  status(deadline: Deadline): Promise<PagerStatus> {
    return this.#line.ask("tell", () => true, deadline);
  }

  /**
   * Records what the guest has touched up to now, and lets the rest of memory be fetched.
   * @returns As of then; `remark` says why, if nothing could be recorded.
   */
  saveWorkingSet(deadline: Deadline): Promise<PagerStatus> {
    return this.#line.ask("saveWorkingSet", ({ isRecording }) => !isRecording, deadline);
  }

  /** Ends it, and its VM if that still runs. Safe to repeat; nothing to one that was let go of. */
  async end(deadline: Deadline): Promise<void> {
    if (this.#isReleased) return;
    this.#line.order("end");
    const own = deadline.sub(deadline.remainingMs() / 2, "the pager's own end");
    await ignoreFailure("it is ended otherwise", own.race(this.ended));
    // Its line closes a moment before it is gone, if it closes at all.
    if (this.#process !== undefined) await endProcess(this.#process, deadline);
    await deadline.race(this.ended);
  }

  /** Lets go of the process, which runs on. */
  release(): void {
    this.#isReleased = true;
    this.#line.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end(Deadline.after(disposeBudgetMs, "ending a pager"));
  }

  async #untilGone(): Promise<PagerEnd> {
    for (let line: PagerLine | undefined = this.#line; line !== undefined;) {
      await line.closed;
      line = await this.#redial();
    }
    return await readLastWords(this.#runFolder);
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
function spawnPager(runFolder: string): ChildProcess {
  const log = openSync(logPath(runFolder), "w", 0o600);
  try {
    const argv = ["--max-semi-space-size=1", join(import.meta.dirname, "main.ts"), runFolder];
    const child = spawn(process.execPath, argv, {
      argv0: pagerProcessName,
      detached: true,
      stdio: ["ignore", "ignore", log],
    });
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
