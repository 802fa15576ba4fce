/**
 * Runs a command in a sandbox as if it ran here: with our input, output, terminal and signals.
 *
 * The end of the command decides: input that is still on its way to it is then dropped.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Deadline, TorporError, ignoreFailure } from "@torpor/std";
import type { SandboxAccess, SandboxInfo } from "./daemon-answers.ts";
import type { DaemonClient } from "./daemon-client.ts";
import {
  Guest,
  type GuestCommand,
  type GuestOutput,
  type GuestProcess,
  isTurnedAway,
} from "./guest-process.ts";
import type { Interrupt } from "./interrupt.ts";
import type { Input, Session } from "./session.ts";
import { RawTerminal, terminalSize } from "./terminal.ts";

/** How long an interrupted command may take to end by itself. */
const graceMs = 5_000;
/** LIMIT: how long after SIGKILL the guest may take to say that the command ended. */
const killedMs = 15_000;
/** How long after an interrupt the CLI waits for a command to begin, to end it. */
const startLateMs = 60_000;
/** LIMIT: the part of a snapshot in which the guest starts no command. */
const checkpointMs = 60_000;
const checkpointPollMs = 100;

/** A command to run, and what it shares with us. */
export interface ForegroundCommand {
  readonly argv: readonly [string, ...string[]];
  readonly env: Readonly<Record<string, string>>;
  readonly workdir?: string | undefined;
  readonly user?: string | undefined;
  /** Passes on standard input. */
  readonly input: boolean;
  /** Gives the command a terminal, which ours then shows. */
  readonly tty: boolean;
  /** Whether Ctrl-C ends the command, or only leaves it because its sandbox will be removed. */
  readonly onInterrupt: "end" | "leave";
  readonly onStarted?: (started: GuestProcess) => void;
}

/**
 * Runs a command to its end. @returns its exit code. @throws guest.refused, guest.unreachable,
 * sandbox.wrongState, canceled
 */
export async function runForeground(
  session: Session,
  access: SandboxAccess,
  command: ForegroundCommand,
  interrupt: Interrupt,
): Promise<number> {
  const { tty } = command;
  using guest = new Guest(session.client.socketPath, access, command.user);
  try {
    const guestCommand: GuestCommand = {
      argv: command.argv,
      env: tty ? { ...terminalEnv(session.env), ...command.env } : command.env,
      workdir: command.workdir,
      stdin: command.input,
      terminal: tty ? terminalSize(process.stdout) : undefined,
    };
    const starting = startOnceOpen(session.client, access.id, interrupt, () =>
      guest.start(guestCommand),
    );
    const started = await unlessLeft(starting, interrupt, command.onInterrupt);
    command.onStarted?.(started);
    using terminal = new DisposableStack();
    if (tty) terminal.use(openTerminal(started));
    return await attach(started, {
      output: session.output,
      input: command.input ? session.input : undefined,
      onInputEnd: tty ? "hangUp" : "close",
      interrupt,
      onInterrupt: command.onInterrupt,
    });
  } catch (cause) {
    throw await explainLost(session.client, access.id, cause);
  }
}

/**
 * Waits for the start. An interrupt may find the request under way, with the process already begun:
 * to end it, the CLI must wait until it is known. @throws canceled
 */
async function unlessLeft(
  starting: Promise<GuestProcess>,
  interrupt: Interrupt,
  onInterrupt: ForegroundCommand["onInterrupt"],
): Promise<GuestProcess> {
  try {
    return await interrupt.race(starting);
  } catch (cause) {
    if (!interrupt.happened || onInterrupt === "leave") throw cause;
  }
  return await Deadline.after(startLateMs, "starting the command").race(starting);
}

/**
 * Retries while a snapshot is taken: the guest then refuses to start a command, and has run
 * nothing.
 */
async function startOnceOpen(
  client: DaemonClient,
  id: string,
  interrupt: Interrupt,
  start: () => Promise<GuestProcess>,
): Promise<GuestProcess> {
  const deadline = Deadline.after(checkpointMs, "waiting for a snapshot of the sandbox");
  for (;;) {
    interrupt.throwIfHappened();
    try {
      return await start();
    } catch (cause) {
      if (!isTurnedAway(cause) || deadline.expired) throw cause;
      if (!isRunning((await client.look(id)).state)) throw cause;
      await deadline.sleep(checkpointPollMs);
    }
  }
}

function openTerminal(started: GuestProcess): RawTerminal {
  return new RawTerminal(process.stdin, process.stdout, (size) => {
    void ignoreFailure("the next change of size sets it right", started.resize(size));
  });
}

function terminalEnv(env: NodeJS.ProcessEnv): Readonly<Record<string, string>> {
  return { TERM: env["TERM"] ?? "xterm-256color", LANG: "C.UTF-8", LC_ALL: "C.UTF-8" };
}

/** The streams and the interrupt that `attach` connects a process to. */
export interface AttachOptions {
  readonly output: GuestOutput;
  /** Undefined if no input is passed on. */
  readonly input: Input | undefined;
  /** The input of a terminal ends only when the terminal is closed: Ctrl-D is a key. */
  readonly onInputEnd: "close" | "hangUp";
  readonly interrupt: Pick<Interrupt, "signal" | "happened" | "exitCode" | "terminalGone">;
  readonly onInterrupt: ForegroundCommand["onInterrupt"];
  /** After an interrupt: until SIGKILL, and from there until the guest is given up. */
  readonly graceMs?: number;
  readonly killedMs?: number;
}

/**
 * Passes on input, output and signals until the process ends, or gives up a guest that answers nothing
 * after an interrupt. @returns its exit code. @throws guest.unreachable
 */
export async function attach(started: GuestProcess, options: AttachOptions): Promise<number> {
  const { input, interrupt } = options;
  using undo = new DisposableStack();
  const ended = new AbortController();
  if (input !== undefined) {
    undo.defer(() => void input.destroy());
    const atEnd = async (): Promise<void> => {
      if (options.onInputEnd === "close") await started.closeInput();
      else if (!ended.signal.aborted) interrupt.terminalGone();
    };
    void ignoreFailure(
      "the output stream tells what became of the process",
      passInput(started, input, atEnd),
    );
  }
  undo.defer(() => ended.abort());
  const left = Promise.withResolvers<number>();
  const stop = (): void => {
    if (options.onInterrupt === "leave") left.resolve(interrupt.exitCode);
    else endProcess(started, options, ended.signal).catch((cause: unknown) => left.reject(cause));
  };
  if (interrupt.happened) stop();
  interrupt.signal.addEventListener("abort", stop);
  undo.defer(() => interrupt.signal.removeEventListener("abort", stop));
  undo.defer(() => started.detach());
  const exitCode = await Promise.race([started.follow(options.output), left.promise]);
  return interrupt.happened ? interrupt.exitCode : exitCode;
}

async function passInput(
  started: GuestProcess,
  input: Input,
  atEnd: () => Promise<void>,
): Promise<void> {
  try {
    for await (const chunk of input) await started.sendInput(chunk as Uint8Array);
  } finally {
    // Also when our input cannot be read: the command must not wait for more.
    await atEnd();
  }
}

/**
 * The output tells that the process ended, which aborts `ended`. A guest whose agent stands still answers
 * no signal, so no answer is waited for. @throws guest.unreachable
 */
async function endProcess(
  started: GuestProcess,
  options: Pick<AttachOptions, "graceMs" | "killedMs">,
  ended: AbortSignal,
): Promise<never> {
  void ignoreFailure("it may have ended meanwhile", started.signal("SIGTERM"));
  await sleep(options.graceMs ?? graceMs, undefined, { signal: ended });
  void ignoreFailure("it may have ended meanwhile", started.signal("SIGKILL"));
  await sleep(options.killedMs ?? killedMs, undefined, { signal: ended });
  throw new TorporError("guest.unreachable", "the sandbox does not say that the command ended", {
    effect: "maybe",
    advice: "The command may still run. Look with `torpor logs ID`, or end it with `torpor rm ID`.",
  });
}

const wait = (id: string): string => `Wait until \`torpor info ${id}\` says that it is running.`;

const adviceFor: Readonly<Record<SandboxInfo["state"], (id: string) => string>> = {
  creating: wait,
  running: wait,
  stalled: () => "Free space on the disk that holds TORPOR_HOME; it goes on within seconds.",
  checkpointing: wait,
  pausing: (id) => `Wait a moment, then wake it with \`torpor resume ${id}\`.`,
  paused: (id) => `Wake it with \`torpor resume ${id}\`; its processes go on where they were.`,
  resuming: wait,
  removing: () => "List the other sandboxes with `torpor ls`.",
  failed: (id) =>
    `Read its console with \`torpor logs ${id}\`, or remove it with \`torpor rm ${id}\`.`,
};

/** Refuses a sandbox in which no command can run now. @throws sandbox.wrongState */
export function requireRunning({ id, state, reason }: SandboxInfo): void {
  if (!isRunning(state)) throw notRunning(id, state, reason);
}

/** A sandbox whose snapshot is being taken is still running. */
function isRunning(state: SandboxInfo["state"]): boolean {
  return state === "running" || state === "checkpointing";
}

/** Explains a broken connection: most often the sandbox was paused or removed. */
async function explainLost(client: DaemonClient, id: string, cause: unknown): Promise<TorporError> {
  const error = TorporError.from(cause, "internal");
  if (error.code !== "guest.unreachable") return error;
  try {
    const { state, reason } = await client.look(id);
    return isRunning(state) ? error : notRunning(id, state, reason, error);
  } catch (failure) {
    if (TorporError.is(failure) && failure.code === "sandbox.notFound") {
      return new TorporError("sandbox.notFound", `sandbox ${id} was removed`, { cause });
    }
    return error;
  }
}

function notRunning(
  id: string,
  state: SandboxInfo["state"],
  reason: string | null,
  cause?: TorporError,
): TorporError {
  const why = reason === null ? "" : `: ${reason}`;
  return new TorporError("sandbox.wrongState", `sandbox ${id} is ${state}${why}`, {
    cause,
    effect: cause?.effect ?? "none",
    advice: adviceFor[state](id),
  });
}
