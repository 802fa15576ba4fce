/**
 * One process inside a sandbox, started by the agent's `process.Process` service through the edge,
 * and its output so far.
 */
import { Agent } from "node:http";
import { type Client, type Interceptor, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import {
  Process,
  type ProcessEvent,
  accessTokenHeader,
  agentPort,
  outputOffsetHeader,
} from "@torpor/protocol";
import { Deadline, TorporError, ignoreFailure } from "@torpor/std";

/** LIMIT: how long a test waits for one line or for the end of a process. */
const waitMs = 60_000;

/** Where a sandbox's agent is reached, and with which token. */
export interface GuestAccess {
  readonly socketPath: string;
  readonly sandboxId: string;
  readonly accessToken: string;
}

/** The result of a process that ended. */
export interface GuestResult {
  readonly stdout: string;
  readonly stderr: string;
  /** "exit status N" or "signal: killed". */
  readonly status: string;
  readonly exitCode: number;
}

/** Bytes of each stream, counted from the start of the process. */
export interface OutputOffsets {
  readonly stdout: number;
  readonly stderr: number;
}

type Events = AsyncIterable<{ readonly event?: ProcessEvent | undefined }>;

/** A started process. Disposing stops listening; the process itself continues. */
export class GuestProcess implements Disposable {
  readonly pid: number;
  readonly #client: Client<typeof Process>;
  readonly #stop: AbortController;
  readonly #ended: Promise<GuestResult>;
  readonly #text = { stdout: "", stderr: "" };
  readonly #offsets: { stdout: number; stderr: number };
  #readChars = 0;
  #grown = Promise.withResolvers<void>();

  private constructor(
    pid: number,
    client: Client<typeof Process>,
    stop: AbortController,
    events: AsyncIterator<{ readonly event?: ProcessEvent | undefined }>,
    offsets: OutputOffsets,
  ) {
    this.#offsets = { ...offsets };
    this.pid = pid;
    this.#client = client;
    this.#stop = stop;
    this.#ended = this.#pump(events);
    void ignoreFailure("whoever waits for the end is told", this.#ended);
  }

  /** Starts a process. @throws ConnectError when the guest cannot run it */
  static async start(
    access: GuestAccess,
    argv: readonly [string, ...string[]],
    user: string,
    stdin: boolean,
  ): Promise<GuestProcess> {
    const [cmd, ...args] = argv;
    return await this.#listen(
      access,
      user,
      (client, options) => client.start({ process: { cmd, args }, stdin }, options),
      { stdout: 0, stderr: 0 },
    );
  }

  /**
   * Continues to listen to a process where another client of it had to stop. @throws ConnectError
   */
  static async connect(
    access: GuestAccess,
    pid: number,
    offsets: OutputOffsets,
  ): Promise<GuestProcess> {
    const process = { selector: { case: "pid" as const, value: pid } };
    const headers = { [outputOffsetHeader]: `${offsets.stdout},${offsets.stderr}` };
    return await this.#listen(
      access,
      "user",
      (client, options) => client.connect({ process }, { ...options, headers }),
      offsets,
    );
  }

  static async #listen(
    access: GuestAccess,
    user: string,
    open: (client: Client<typeof Process>, options: { signal: AbortSignal }) => Events,
    offsets: OutputOffsets,
  ): Promise<GuestProcess> {
    const client = createClient(
      Process,
      createConnectTransport({
        baseUrl: "http://torpor",
        httpVersion: "1.1",
        useBinaryFormat: false,
        nodeOptions: { socketPath: access.socketPath, agent: new Agent({ keepAlive: false }) },
        interceptors: [addressedTo(access, user)],
      }),
    );
    const stop = new AbortController();
    const events = open(client, { signal: stop.signal })[Symbol.asyncIterator]();
    const first = await Deadline.after(waitMs, "the start of a stream").race(events.next());
    const event = first.done === true ? undefined : first.value.event?.event;
    if (event?.case !== "start") throw new TorporError("guest.refused", "no start event");
    return new GuestProcess(event.value.pid, client, stop, events, offsets);
  }

  /** Everything received of standard output so far. */
  get stdout(): string {
    return this.#text.stdout;
  }

  /** Everything received of standard error so far. */
  get stderr(): string {
    return this.#text.stderr;
  }

  /** The offset of the next byte of each stream. */
  get offsets(): OutputOffsets {
    return { ...this.#offsets };
  }

  /**
   * Waits for the next line of standard output. @throws when the stream ends before there is one
   */
  async readLine(): Promise<string> {
    const deadline = Deadline.after(waitMs, `a line of process ${this.pid}`);
    for (;;) {
      const grown = this.#grown.promise;
      const end = this.#text.stdout.indexOf("\n", this.#readChars);
      if (end !== -1) {
        const line = this.#text.stdout.slice(this.#readChars, end);
        this.#readChars = end + 1;
        return line;
      }
      const ended = this.#ended.then(({ status }) => {
        throw new TorporError("guest.refused", `ended (${status}) without another line`);
      });
      await deadline.race(Promise.race([grown, ended]));
    }
  }

  async write(text: string): Promise<void> {
    const process = { selector: { case: "pid" as const, value: this.pid } };
    const input = { input: { case: "stdin" as const, value: Buffer.from(text) } };
    await this.#client.sendInput({ process, input }, { timeoutMs: waitMs });
  }

  /** Waits for the process to end. @throws ConnectError when the stream breaks before that */
  async finish(): Promise<GuestResult> {
    return await Deadline.after(waitMs, `process ${this.pid}`).race(this.#ended);
  }

  [Symbol.dispose](): void {
    this.#stop.abort();
  }

  async #pump(
    events: AsyncIterator<{ readonly event?: ProcessEvent | undefined }>,
  ): Promise<GuestResult> {
    for (;;) {
      const next = await events.next();
      if (next.done === true) throw new TorporError("guest.unreachable", "the stream has no end");
      const event = next.value.event?.event;
      if (event?.case === "end") {
        return { ...this.#text, status: event.value.status, exitCode: event.value.exitCode };
      }
      if (event?.case !== "data") continue;
      const { output } = event.value;
      const name = output.case === "stderr" ? "stderr" : "stdout";
      this.#text[name] += Buffer.from(output.value ?? []).toString("utf8");
      this.#offsets[name] += output.value?.length ?? 0;
      this.#grown.resolve();
      this.#grown = Promise.withResolvers<void>();
    }
  }
}

function addressedTo(access: GuestAccess, user: string): Interceptor {
  return (next) => async (call) => {
    call.header.set("e2b-sandbox-id", access.sandboxId);
    call.header.set("e2b-sandbox-port", String(agentPort));
    call.header.set(accessTokenHeader, access.accessToken);
    call.header.set("authorization", `Basic ${Buffer.from(`${user}:`).toString("base64")}`);
    return await next(call);
  };
}
