/**
 * Runs commands inside a sandbox, by the agent's `process.Process` service.
 *
 * Requests go to the daemon's socket with headers that name the sandbox and the agent's port; the
 * daemon passes them on. The process belongs to the sandbox and not to us: it continues when we
 * detach, and through a pause.
 *
 * Failures: `start` throws `guest.refused` with the exit code a shell would use in its details,
 * when the guest cannot run such a command; everything throws `guest.unreachable` when the
 * connection breaks.
 */
import { Agent } from "node:http";
import { constants } from "node:os";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  type Client,
  Code,
  ConnectError,
  type Interceptor,
  createClient,
} from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import {
  Process,
  type ProcessEvent,
  type ProcessEvent_EndEvent,
  Signal,
  type StartRequestSchema,
  accessTokenHeader,
  agentPort,
} from "@torpor/protocol";
import { TorporError } from "@torpor/std";
import type { SandboxAccess } from "./daemon-answers.ts";

/** A command to start in a guest. */
export interface GuestCommand {
  /** Program and arguments; see `shellArgv` of usage.ts for a line of shell. */
  readonly argv: readonly [string, ...string[]];
  readonly env: Readonly<Record<string, string>>;
  /** The working folder; undefined is the user's home. */
  readonly workdir?: string | undefined;
  /** False if the command reads end of file. */
  readonly stdin: boolean;
  readonly terminal?: TerminalSize | undefined;
}

/** The size of a terminal in characters. */
export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** Receives what a command writes; a slow receiver slows the command down. */
export interface GuestOutput {
  /** Receives standard output, or all that a terminal shows. */
  writeOut(bytes: Uint8Array): Promise<void>;
  writeError(bytes: Uint8Array): Promise<void>;
}

/** Exit codes of a shell for a command that it cannot run, or cannot find. */
const cannotRunCode = 126;
const notFoundCode = 127;
/** The agent sends something after this much silence, so that no proxy cuts the stream. */
const keepaliveSeconds = 50;

/**
 * The texts with which the agent refuses to start a command for now: before the stream begins, and
 * in it. The daemon in between answers 502, and then the command may have begun.
 */
const turnedAwayTexts = ["HTTP 503", "the sandbox is being paused or resumed"] as const;

/** A connection to the agent of one sandbox. */
export class Guest implements Disposable {
  readonly #client: Client<typeof Process>;
  readonly #agent = new Agent({ keepAlive: true });

  /** @param user Runs the commands; undefined is the sandbox's default user. */
  constructor(socketPath: string, access: SandboxAccess, user?: string) {
    this.#client = createClient(
      Process,
      createConnectTransport({
        baseUrl: "http://torpor",
        httpVersion: "1.1",
        useBinaryFormat: false,
        nodeOptions: { socketPath, agent: this.#agent },
        interceptors: [addressedTo(access, user)],
      }),
    );
  }

  /**
   * Starts a command. A start cannot be canceled: the process might begin all the same, unknown to
   * anyone.
   * @throws guest.refused, guest.unreachable
   */
  async start(command: GuestCommand): Promise<GuestProcess> {
    const stream = new AbortController();
    const answers = this.#client.start(startRequest(command), {
      signal: stream.signal,
      headers: { "keepalive-ping-interval": String(keepaliveSeconds) },
    });
    const events = answers[Symbol.asyncIterator]();
    try {
      const first = await events.next();
      const event = first.done === true ? undefined : first.value.event?.event;
      if (event?.case !== "start") throw new ConnectError("no start event", Code.Internal);
      return new GuestProcess({
        client: this.#client,
        events: mapEvents(events),
        stream,
        pid: event.value.pid,
        hasTerminal: command.terminal !== undefined,
      });
    } catch (cause) {
      stream.abort();
      throw startError(cause, command);
    }
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
  }
}

interface StartedProcess {
  readonly client: Client<typeof Process>;
  readonly events: AsyncIterable<ProcessEvent>;
  readonly stream: AbortController;
  readonly pid: number;
  readonly hasTerminal: boolean;
}

/** A process in a guest, which its output, input and signals pass through. */
export class GuestProcess {
  /** The process id in the guest. */
  readonly pid: number;
  readonly #started: StartedProcess;

  constructor(started: StartedProcess) {
    this.pid = started.pid;
    this.#started = started;
  }

  /**
   * Passes on the output until the process ends. @returns its exit code, or 128 plus the number of
   * the signal that ended it. Call it once. @throws guest.unreachable when the connection breaks.
   */
  async follow(output: GuestOutput): Promise<number> {
    try {
      for await (const { event } of this.#started.events) {
        if (event.case === "end") return exitCodeOf(event.value);
        if (event.case !== "data") continue;
        const piece = event.value.output;
        if (piece.case === "stderr") await output.writeError(piece.value);
        else if (piece.case !== undefined) await output.writeOut(piece.value);
      }
    } catch (cause) {
      throw lineError(cause);
    }
    throw lineError(new ConnectError("the stream has no end", Code.Unavailable));
  }

  /** Stops listening; the process continues. */
  detach(): void {
    this.#started.stream.abort();
  }

  async sendInput(bytes: Uint8Array): Promise<void> {
    const kind = this.#started.hasTerminal ? "pty" : "stdin";
    await this.#call((client, process) =>
      client.sendInput({ process, input: { input: { case: kind, value: bytes } } }),
    );
  }

  async closeInput(): Promise<void> {
    await this.#call((client, process) => client.closeStdin({ process }));
  }

  async resize(size: TerminalSize): Promise<void> {
    const pty = { size: sizeMessage(size) };
    await this.#call((client, process) => client.update({ process, pty }));
  }

  async signal(name: "SIGTERM" | "SIGKILL"): Promise<void> {
    await this.#call((client, process) => client.sendSignal({ process, signal: Signal[name] }));
  }

  async #call(
    send: (client: Client<typeof Process>, process: PidSelector) => Promise<unknown>,
  ): Promise<void> {
    try {
      await send(this.#started.client, { selector: { case: "pid", value: this.pid } });
    } catch (cause) {
      throw lineError(cause);
    }
  }
}

interface PidSelector {
  readonly selector: { readonly case: "pid"; readonly value: number };
}

/** Runs a command to its end and returns its output. @throws guest.refused when it fails */
export async function captureOutput(guest: Guest, command: GuestCommand): Promise<string> {
  const process = await guest.start(command);
  const out: Uint8Array[] = [];
  const errors: Uint8Array[] = [];
  const exitCode = await process.follow({
    writeOut: async (bytes) => void out.push(bytes),
    writeError: async (bytes) => void errors.push(bytes),
  });
  if (exitCode === 0) return Buffer.concat(out).toString("utf8");
  const text = Buffer.concat(errors).toString("utf8").trim();
  throw new TorporError("guest.refused", `${command.argv[0]} ended with ${exitCode}: ${text}`);
}

function addressedTo(access: SandboxAccess, user: string | undefined): Interceptor {
  return (next) => async (call) => {
    call.header.set("e2b-sandbox-id", access.id);
    call.header.set("e2b-sandbox-port", String(agentPort));
    if (access.accessToken !== null) call.header.set(accessTokenHeader, access.accessToken);
    if (user !== undefined) {
      call.header.set("authorization", `Basic ${Buffer.from(`${user}:`).toString("base64")}`);
    }
    return await next(call);
  };
}

async function* mapEvents(
  events: AsyncIterator<{ readonly event?: ProcessEvent | undefined }>,
): AsyncGenerator<ProcessEvent> {
  for (;;) {
    const next = await events.next();
    if (next.done === true) return;
    if (next.value.event !== undefined) yield next.value.event;
  }
}

function startRequest(command: GuestCommand): MessageInitShape<typeof StartRequestSchema> {
  const [cmd, ...args] = command.argv;
  const { env, workdir, stdin, terminal } = command;
  return {
    process: { cmd, args, envs: { ...env }, ...(workdir === undefined ? {} : { cwd: workdir }) },
    stdin,
    ...(terminal === undefined ? {} : { pty: { size: sizeMessage(terminal) } }),
  };
}

function sizeMessage({ columns, rows }: TerminalSize): { cols: number; rows: number } {
  return { cols: columns, rows };
}

/** Go's names for signals, as the end event has them. */
const signalNumbers: Readonly<Record<string, number>> = {
  aborted: constants.signals.SIGABRT,
  "alarm clock": constants.signals.SIGALRM,
  "bad system call": constants.signals.SIGSYS,
  "broken pipe": constants.signals.SIGPIPE,
  "bus error": constants.signals.SIGBUS,
  "cpu time limit exceeded": constants.signals.SIGXCPU,
  "file size limit exceeded": constants.signals.SIGXFSZ,
  "floating point exception": constants.signals.SIGFPE,
  hangup: constants.signals.SIGHUP,
  "illegal instruction": constants.signals.SIGILL,
  interrupt: constants.signals.SIGINT,
  killed: constants.signals.SIGKILL,
  quit: constants.signals.SIGQUIT,
  "segmentation fault": constants.signals.SIGSEGV,
  terminated: constants.signals.SIGTERM,
  "trace/breakpoint trap": constants.signals.SIGTRAP,
  "user defined signal 1": constants.signals.SIGUSR1,
  "user defined signal 2": constants.signals.SIGUSR2,
};

function exitCodeOf({ exited, exitCode, status }: ProcessEvent_EndEvent): number {
  if (exited) return exitCode;
  return 128 + (signalNumbers[status.replace(/^signal: /, "")] ?? 0);
}

/**
 * Explains a failed start. Nothing ran, so the effect is none, unless the connection itself broke.
 */
function startError(cause: unknown, { argv, workdir }: GuestCommand): TorporError {
  const error = ConnectError.from(cause);
  const text = error.rawMessage;
  const refused = (message: string, exitCode: number, advice: string): TorporError =>
    new TorporError("guest.refused", message, {
      cause,
      effect: "none",
      advice,
      details: { exitCode },
    });
  if (error.code === Code.Unauthenticated || error.code === Code.PermissionDenied) {
    return refused(text, cannotRunCode, "Name a user that exists in the sandbox.");
  }
  // `resource_exhausted` comes from agents of older templates.
  const lacks: readonly Code[] = [Code.Aborted, Code.FailedPrecondition, Code.ResourceExhausted];
  if (lacks.includes(error.code)) {
    return refused(text, cannotRunCode, "Free what the sandbox lacks, then try again.");
  }
  if (error.code !== Code.InvalidArgument) return lineError(cause);
  if (text.includes("cwd")) {
    return refused(
      text,
      cannotRunCode,
      `Create ${workdir ?? "the folder"} first, or name another.`,
    );
  }
  if (text.includes("no such file")) {
    return refused(
      `${argv[0]} was not found in the sandbox`,
      notFoundCode,
      "Check the name of the command, or install it in the sandbox first.",
    );
  }
  return refused(text, cannotRunCode, "Check that the file is a program and may be executed.");
}

/** Whether the agent itself refused to start anything, because a snapshot is being taken. */
export function isTurnedAway(error: unknown): boolean {
  const cause = TorporError.is(error) ? error.cause : undefined;
  return (
    cause instanceof ConnectError &&
    cause.code === Code.Unavailable &&
    turnedAwayTexts.some((text) => cause.rawMessage.startsWith(text))
  );
}

function lineError(cause: unknown): TorporError {
  const { rawMessage } = ConnectError.from(cause);
  return new TorporError("guest.unreachable", `the line to the sandbox broke: ${rawMessage}`, {
    cause,
  });
}
