/**
 * The RPCs of `process.Process`: requests in, calls on processes, events out.
 *
 * The timeout of Start is the lifetime of the command: at its end the agent kills it with all its
 * descendants, whether or not the client is still connected, and the stream ends with
 * `deadline_exceeded`. The timeout of Connect ends that stream only. A client that disconnects ends
 * nothing, and may reconnect for the output it missed (output-offset.ts of the protocol).
 */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import {
  type Process,
  type ProcessEvent,
  ProcessEventSchema,
  type ProcessInput,
  Signal,
  type StartRequest,
  outputOffsetHeader,
} from "@torpor/protocol";
import { assertNever } from "@torpor/std";
import type { Accounts } from "./accounts.ts";
import type { AgentConfig } from "./config.ts";
import type { Identity } from "./identity.ts";
import { type LaunchContext, type LaunchRequest, launch } from "./launch.ts";
import { LogBudget } from "./log-budget.ts";
import type { OutputOffsets } from "./output-log.ts";
import { ManagedProcess, type ProcessContext, type Subscription } from "./process.ts";
import { type ProcessEntry, ProcessTable } from "./process-table.ts";
import { resolvePath, resolveUser, userNameOfHeader } from "./request-user.ts";
import {
  formatOutputOffsets,
  keepaliveMs,
  parseOutputOffsets,
  parseTimeoutMs,
  readStream,
  timeoutKey,
} from "./stream-headers.ts";
import type { UserEnvironment } from "./user-environment.ts";

/** The parts of the agent that the process RPCs use. */
export interface ProcessServiceContext extends LaunchContext {
  readonly config: AgentConfig;
  readonly accounts: Accounts;
  readonly identity: Identity;
  readonly environment: UserEnvironment;
}

const keepalive = create(ProcessEventSchema, { event: { case: "keepalive", value: {} } });
/** LIMIT: the kernel keeps the sides of a window in 16 bits. */
const windowSideMax = 65_535;
const defaultWindow = { cols: 80, rows: 24 };

/** Implements the RPCs. Each rejects with a ConnectError. */
export class ProcessService implements ServiceImpl<typeof Process> {
  readonly #context: ProcessServiceContext;
  readonly #table: ProcessTable;
  readonly #processContext: ProcessContext;

  constructor(context: ProcessServiceContext) {
    const { limits } = context.config;
    this.#context = context;
    // An agent that has an identity before its first init took it over from an earlier agent.
    const isSuccessor = context.identity.current.generation > 0;
    this.#table = new ProcessTable(context.timers, limits.exitKeptMs, isSuccessor);
    const logBudget = new LogBudget(limits.allOutputKeptBytes);
    this.#processContext = { timers: context.timers, limits, logBudget };
  }

  readonly list: ServiceImpl<typeof Process>["list"] = () => {
    const processes = this.#table.running().map(({ process, config, tag }) => ({
      pid: process.pid,
      ...(config === undefined ? {} : { config }),
      ...(tag === undefined ? {} : { tag }),
    }));
    return { processes };
  };

  readonly start: ServiceImpl<typeof Process>["start"] = (request, context) =>
    this.#start(request, context);

  readonly connect: ServiceImpl<typeof Process>["connect"] = (request, context) => {
    const { process } = this.#table.findRecent(request.process);
    const timeoutMs = parseTimeoutMs(context.values.get(timeoutKey));
    const from = parseOutputOffsets(context.requestHeader, process.outputKinds);
    const subscription = process.subscribe(from);
    tellOutputOffsets(context, from ?? process.outputOffsets);
    return this.#stream(process, subscription, context, timeoutMs);
  };

  readonly update: ServiceImpl<typeof Process>["update"] = (request) => {
    const { process } = this.#table.findRunning(request.process);
    if (request.pty !== undefined) {
      const { cols, rows } = windowSize(request.pty.size);
      process.resize(cols, rows);
    }
    return {};
  };

  readonly sendInput: ServiceImpl<typeof Process>["sendInput"] = async (request) => {
    await writeInput(this.#table.findRunning(request.process), request.input);
    return {};
  };

  readonly streamInput: ServiceImpl<typeof Process>["streamInput"] = async (requests) => {
    let entry: ProcessEntry | undefined;
    for await (const { event } of requests) {
      switch (event.case) {
        case "start":
          entry = this.#table.findRunning(event.value.process);
          break;
        case "data":
          if (entry === undefined) {
            throw new ConnectError("the first message must be start", Code.InvalidArgument);
          }
          await writeInput(entry, event.value.input);
          break;
        case "keepalive":
          break;
        case undefined:
          throw new ConnectError("no event given", Code.Unimplemented);
        default:
          assertNever(event);
      }
    }
    return {};
  };

  readonly sendSignal: ServiceImpl<typeof Process>["sendSignal"] = (request) => {
    const { process } = this.#table.findRunning(request.process);
    process.signal(signalName(request.signal));
    return {};
  };

  readonly closeStdin: ServiceImpl<typeof Process>["closeStdin"] = (request) => {
    this.#table.findRunning(request.process).process.closeStdin();
    return {};
  };

  async *#start(
    request: StartRequest,
    context: HandlerContext,
  ): AsyncGenerator<{ event: ProcessEvent }> {
    const timeoutMs = parseTimeoutMs(context.values.get(timeoutKey));
    this.#context.gate.check();
    this.#table.checkRoom();
    const launched = await launch(this.#launchRequest(request, context), this.#context);
    // ORDER: nothing is awaited from the spawn to the subscription, so no output is missed.
    const process = new ManagedProcess(launched, this.#processContext);
    this.#table.add({ process, config: request.process, tag: request.tag });
    const subscription = process.subscribe();
    tellOutputOffsets(context, process.outputOffsets);
    if (timeoutMs !== undefined) process.limitLifetime(timeoutMs, subscription);
    yield* this.#stream(process, subscription, context, undefined);
  }

  async *#stream(
    process: ManagedProcess,
    subscription: Subscription,
    context: HandlerContext,
    timeoutMs: number | undefined,
  ): AsyncGenerator<{ event: ProcessEvent }> {
    context.responseHeader.set("X-Accel-Buffering", "no");
    try {
      const start = { case: "start", value: { pid: process.pid } } as const;
      yield { event: create(ProcessEventSchema, { event: start }) };
      const options = {
        signal: context.signal,
        timers: this.#context.timers,
        keepaliveMs: keepaliveMs(context.requestHeader),
        keepalive,
        timeoutMs,
      };
      for await (const event of readStream(subscription, options)) yield { event };
    } finally {
      process.unsubscribe(subscription);
    }
  }

  #launchRequest(request: StartRequest, context: HandlerContext): LaunchRequest {
    const { accounts, environment, identity } = this.#context;
    const name = userNameOfHeader(context.requestHeader.get("authorization"));
    const user = resolveUser(name, accounts, identity);
    const { process, pty } = request;
    return {
      user,
      command: process?.cmd ?? "",
      args: process?.args ?? [],
      cwd: resolvePath(process?.cwd ?? "", user, identity.current.defaultWorkdir),
      env: {
        ...environment.of(user),
        ...process?.envs,
      },
      stdin: request.stdin ?? true,
      terminal: pty === undefined ? undefined : windowSize(pty.size),
    };
  }
}

function tellOutputOffsets(context: HandlerContext, offsets: OutputOffsets): void {
  context.responseHeader.set(outputOffsetHeader, formatOutputOffsets(offsets));
}

async function writeInput(entry: ProcessEntry, input: ProcessInput | undefined): Promise<void> {
  const given = input?.input;
  switch (given?.case) {
    case "stdin":
      await entry.process.writeStdin(given.value);
      break;
    case "pty":
      await entry.process.writePty(given.value);
      break;
    case undefined:
      throw new ConnectError("no input given", Code.Unimplemented);
    default:
      assertNever(given);
  }
}

function signalName(signal: Signal): NodeJS.Signals {
  switch (signal) {
    case Signal.SIGKILL:
      return "SIGKILL";
    case Signal.SIGTERM:
      return "SIGTERM";
    case Signal.UNSPECIFIED:
      throw new ConnectError("only SIGTERM and SIGKILL can be sent", Code.Unimplemented);
    default:
      throw new ConnectError(`signal ${String(signal)} cannot be sent`, Code.Unimplemented);
  }
}

function windowSize(size: { cols: number; rows: number } | undefined): {
  cols: number;
  rows: number;
} {
  return {
    cols: Math.min(size?.cols || defaultWindow.cols, windowSideMax),
    rows: Math.min(size?.rows || defaultWindow.rows, windowSideMax),
  };
}
