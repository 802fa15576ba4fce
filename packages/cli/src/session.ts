/** The surroundings of every verb: the output, the environment, and the daemon. */
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

/** The part of standard input that the CLI uses. */
export interface Input extends AsyncIterable<unknown> {
  readonly isTTY?: boolean;
  destroy(): unknown;
}

/** The parts of a session. */
export interface SessionOptions {
  readonly output: Output;
  readonly input: Input;
  readonly env: NodeJS.ProcessEnv;
  readonly stateFolder: string;
  readonly cacheFolder: string;
  /** Answers and failures are for a script. */
  readonly asJson: boolean;
  /** Where to put `torpor` on PATH. */
  readonly launcherPath?: string;
  /** Where set-up adds a source of Debian packages; only tests set it. */
  readonly aptSourcePath?: string;
}

/** One run of the CLI. */
export class Session {
  readonly output: Output;
  readonly input: Input;
  readonly env: NodeJS.ProcessEnv;
  readonly stateFolder: string;
  readonly cacheFolder: string;
  readonly asJson: boolean;
  readonly launcherPath: string;
  readonly aptSourcePath: string | undefined;
  /** Calls the daemon, whether or not one runs. */
  readonly client: DaemonClient;
  /** The program's exit code; verbs set it to end with another code than 0 without a failure. */
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
   * Returns a daemon that answers; starts one when none does, and says so. A running daemon keeps
   * the settings it was started with: differences to ours are reported once.
   * @param alsoUnset Reports also what is not set here, but was set for the daemon.
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

  /** Finds the sandbox that a full id, or the beginning of one, names. */
  async find(wanted: string): Promise<SandboxInfo> {
    const daemon = await this.daemon();
    return await namedSandbox(daemon, wanted, await daemon.list());
  }

  /** Finds several, like `find`; all are found before the verb changes any. */
  async findAll(wanted: readonly string[]): Promise<readonly SandboxInfo[]> {
    const daemon = await this.daemon();
    const sandboxes = await daemon.list();
    const found = new Set<SandboxInfo>();
    for (const one of wanted) found.add(await namedSandbox(daemon, one, sandboxes));
    return [...found];
  }

  /**
   * Waits for the daemon's work. When an interrupt ends the wait, the daemon finishes the work
   * nevertheless. @throws canceled
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

/**
 * Finds a sandbox by what the user typed. @throws argument.invalid, sandbox.notFound with what was
 * probably meant
 */
async function namedSandbox(
  daemon: DaemonClient,
  wanted: string,
  sandboxes: readonly SandboxInfo[],
): Promise<SandboxInfo> {
  const found = findSandbox(wanted, sandboxes);
  if (found === undefined) throw await unknownSandbox(daemon, wanted);
  return found;
}

/** Whether a template is missing, or a snapshot that is used as one. */
export function isMissing(cause: unknown): cause is TorporError {
  return TorporError.is(cause) && cause.code === "template.missing";
}

/**
 * Does `work` for each thing in turn; tries all, and throws a failure after the last.
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
