/** What every verb works with: where to write, what surrounds us, and the daemon. */
import { join } from "node:path";
import { TorporError } from "@torpor/std";
import { type Environment, daemonSettings, stateFiles } from "@torpor/storage";
import type { CreatedSandbox, SandboxInfo } from "./daemon-answers.ts";
import { DaemonClient, type NewSandbox } from "./daemon-client.ts";
import { startDaemonProcess } from "./daemon-process.ts";
import type { Interrupt } from "./interrupt.ts";
import { defaultLauncherPath } from "./launcher.ts";
import type { Output } from "./output.ts";
import { findSandbox } from "./sandbox-id.ts";
import { noteDifferences } from "./settings-note.ts";
import { unknownSandbox, unknownTemplate } from "./unknown-name.ts";

/** The part of standard input that is used here. */
export interface Input extends AsyncIterable<unknown> {
  readonly isTTY?: boolean;
  destroy(): unknown;
}

export interface SessionOptions {
  readonly output: Output;
  readonly input: Input;
  readonly env: NodeJS.ProcessEnv;
  readonly stateFolder: string;
  readonly cacheFolder: string;
  /** Answers and failures are for a script. */
  readonly asJson: boolean;
  /** Where `torpor` is put on PATH. */
  readonly launcherPath?: string;
  /** Where set-up adds a source of Debian packages; only tests name another. */
  readonly aptSourcePath?: string;
}

export class Session {
  readonly output: Output;
  readonly input: Input;
  readonly env: NodeJS.ProcessEnv;
  readonly stateFolder: string;
  readonly cacheFolder: string;
  readonly asJson: boolean;
  readonly launcherPath: string;
  readonly aptSourcePath: string | undefined;
  /** The line to the daemon, whether or not one runs. */
  readonly client: DaemonClient;
  /** Of the program, set by verbs that end with another code than 0 without a failure. */
  exitCode = 0;
  #haveCompared = false;

  constructor(options: SessionOptions) {
    this.output = options.output;
    this.input = options.input;
    this.env = options.env;
    this.stateFolder = options.stateFolder;
    this.cacheFolder = options.cacheFolder;
    this.asJson = options.asJson;
    this.launcherPath = options.launcherPath ?? defaultLauncherPath();
    this.aptSourcePath = options.aptSourcePath;
    this.client = new DaemonClient(join(options.stateFolder, stateFiles.socket));
  }

  get logPath(): string {
    return join(this.stateFolder, stateFiles.log);
  }

  fail(error: TorporError): void {
    this.output.fail(error, this.asJson);
  }

  /**
   * A daemon that answers; starts one when none does, and says so. One that runs keeps the settings it
   * was started with: what of ours differs is said once.
   * @param alsoUnset Also what is not set here, but was set for the daemon.
   */
  async daemon(alsoUnset = false): Promise<DaemonClient> {
    if (await this.client.isAnswering()) {
      await this.#noteDifferences(alsoUnset);
      return this.client;
    }
    this.output.note("No daemon answers: starting one.");
    await this.output.busy("starting the daemon", startDaemonProcess(this.client, this));
    return this.client;
  }

  async #noteDifferences(alsoUnset: boolean): Promise<void> {
    const env: Environment = { ...this.env, TORPOR_CACHE: this.cacheFolder };
    const mayDiffer = alsoUnset || Object.keys(daemonSettings(this.env)).length > 0;
    if (this.#haveCompared || !mayDiffer) return;
    this.#haveCompared = true;
    const { settings } = await this.client.describe();
    if (settings !== null) noteDifferences(this.output, env, settings, alsoUnset);
  }

  /** The sandbox that a full id, or the beginning of one, names. */
  async find(wanted: string): Promise<SandboxInfo> {
    const daemon = await this.daemon();
    return await namedSandbox(daemon, wanted, await daemon.list());
  }

  /** As `find`, for several; all are found before anything happens to one. */
  async findAll(wanted: readonly string[]): Promise<readonly SandboxInfo[]> {
    const daemon = await this.daemon();
    const sandboxes = await daemon.list();
    const found = new Set<SandboxInfo>();
    for (const one of wanted) found.add(await namedSandbox(daemon, one, sandboxes));
    return [...found];
  }

  /**
   * Waits for what the daemon does, which it finishes for whoever looks next also when an interrupt
   * ends the wait. @throws canceled
   */
  async awaitDaemon<T>(interrupt: Interrupt, doing: string, work: Promise<T>): Promise<T> {
    try {
      return await this.output.busy(doing, interrupt.race(work));
    } catch (cause) {
      if (interrupt.happened) {
        this.output.note(`Interrupted: the daemon goes on ${doing}. See \`torpor ls\`.`);
      }
      throw cause;
    }
  }

  async create(sandbox: NewSandbox): Promise<CreatedSandbox> {
    const daemon = await this.daemon();
    try {
      return await this.output.busy("creating the sandbox", daemon.create(sandbox));
    } catch (cause) {
      if (!isMissing(cause)) throw cause;
      throw await unknownTemplate(daemon, sandbox.template, cause);
    }
  }
}

/** @throws argument.invalid, sandbox.notFound with what was probably meant */
async function namedSandbox(
  daemon: DaemonClient,
  wanted: string,
  sandboxes: readonly SandboxInfo[],
): Promise<SandboxInfo> {
  const found = findSandbox(wanted, sandboxes);
  if (found === undefined) throw await unknownSandbox(daemon, wanted);
  return found;
}

/** Also of a snapshot, which stands for one. */
export function isMissing(cause: unknown): cause is TorporError {
  return TorporError.is(cause) && cause.code === "template.missing";
}

/**
 * Does `work` for each in turn; all are tried, and a failure is thrown after the last.
 * @throws canceled at once when it is interrupted
 */
export async function forEach<T>(
  session: Session,
  interrupt: Interrupt,
  things: readonly T[],
  work: (thing: T) => Promise<void>,
): Promise<void> {
  const failures: TorporError[] = [];
  for (const thing of things) {
    interrupt.throwIfHappened();
    try {
      await work(thing);
    } catch (cause) {
      if (interrupt.happened) throw cause;
      failures.push(TorporError.from(cause, "internal"));
    }
  }
  const last = failures.pop();
  for (const failure of failures) session.fail(failure);
  if (last !== undefined) throw last;
}
