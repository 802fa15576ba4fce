/**
 * The daemon's end: starts a VM's pager, receives its status, and reports when it is gone.
 *
 * A pager is a separate process that outlives the daemon, as the VM does. The next daemon adopts it
 * through the line on which it listens, and finds a stray one by its name and the run's folder in
 * the process list. If it is gone, for any reason but the VM's own end, the VM must be ended: a
 * guest without a pager hangs at the next page that it touches. `ended` gives the reason.
 *
 *     await using pager = await PagerProcess.start(options, deadline);
 *     pager.ended.then(({ kind }) => kind === "failed" && vm.end(…));
 *     …                                       // the VMM connects to options.vmSocketPath
 *     await pager.saveWorkingSet(deadline);   // the guest is ready: record what it touched
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
/** How long a broken line is redialled before the pager counts as gone. */
const redialBudgetMs = 2_000;
const disposeBudgetMs = 5_000;

/** A running pager; disposing ends it. */
export class PagerProcess implements AsyncDisposable {
  /** Settles when the pager is gone. Never rejects; never settles after `release`. */
  readonly ended: Promise<PagerEnd>;
  /** The memory that it serves. */
  readonly memory: SavedMemoryFiles;
  readonly #runFolder: string;
  readonly #process: ProcessName | undefined;
  #line: PagerLine;
  #isReleased = false;

  private constructor(line: PagerLine, { runFolder, memory }: PagerOptions) {
    this.#line = line;
    this.#process = nameProcess(line.pid); // while the line is open, no other process can have this pid
    this.#runFolder = runFolder;
    this.memory = memory;
    this.ended = this.#untilGone();
  }

  /**
   * Starts a pager, which listens for the VMM once this returns.
   * @throws snapshot.corrupt if the memory cannot be served; deadline.exceeded
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

  /**
   * Connects to the pager of a running VM.
   * @throws vmm.failed if there is no pager any more: the VM must be ended.
   */
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

  /** The current status. @throws vmm.failed if the pager is gone, deadline.exceeded */
  status(deadline: Deadline): Promise<PagerStatus> {
    return this.#line.ask("tell", () => true, deadline);
  }

  /**
   * Records what the guest has touched until now, and lets the pager fetch the other pages.
   * @returns The status after that; if nothing could be recorded, `remark` says why.
   */
  saveWorkingSet(deadline: Deadline): Promise<PagerStatus> {
    return this.#line.ask("saveWorkingSet", ({ isRecording }) => !isRecording, deadline);
  }

  /**
   * Ends the pager, and its VM if that still runs. Safe to repeat; does nothing after `release`.
   */
  async end(deadline: Deadline): Promise<void> {
    if (this.#isReleased) return;
    this.#line.order("end");
    const own = deadline.sub(deadline.remainingMs() / 2, "the pager's own end");
    await ignoreFailure("it is ended otherwise", own.race(this.ended));
    // The line closes a moment before the process ends, if it closes at all.
    if (this.#process !== undefined) await endProcess(this.#process, deadline);
    await deadline.race(this.ended);
  }

  /** Detaches from the process, which keeps running. */
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

  /** Redials the pager. One that is gone refuses, or has removed the socket. */
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

/** Starts the process detached, so that it does not end with the daemon. */
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
