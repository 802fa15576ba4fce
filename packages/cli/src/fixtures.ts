/**
 * For tests: a daemon that keeps its sandboxes in a list and runs their commands on this machine,
 * with the contract of the real one on a real Unix socket; and streams that keep what is written.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { EventEmitter, on, once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { Code, ConnectError, type ConnectRouter, type HandlerContext } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { Process, Signal, type StartRequest } from "@torpor/protocol";
import { type JsonObject, TorporError, parseJson, parseObject, systemCode } from "@torpor/std";
import { stateFiles } from "@torpor/storage";
import type { ApiKeyInfo, DaemonInfo, SandboxInfo } from "./daemon-answers.ts";
import { Output, type TextStream } from "./output.ts";
import { runCli, wantsJson } from "./program.ts";
import { Session } from "./session.ts";

const runningStates: ReadonlySet<string> = new Set(["running", "checkpointing"]);
/** The token of every sandbox of the fake daemon. */
export const accessToken = "secret-token";

/** A running sandbox with these fields replaced. */
export function sandboxInfo(given: Partial<SandboxInfo> = {}): SandboxInfo {
  return {
    id: "iabcdef0123456789",
    template: "base",
    templateId: "base-1",
    state: "running",
    reason: null,
    generation: 1,
    pid: process.pid,
    createdAtMs: 1_700_000_000_000,
    startedAtMs: 1_700_000_000_000,
    metadata: {},
    lastLines: [],
    onTimeout: "kill",
    endAtMs: null,
    leftMs: null,
    idleTimeoutMs: null,
    maxRunMs: null,
    missedDeadline: null,
    pager: null,
    snapshot: null,
    hasPrevious: false,
    ...given,
  };
}

/** A stream that keeps what is written to it. */
export class MemoryStream implements TextStream {
  readonly writableLength = 0;
  readonly isTTY: boolean;
  #text = "";

  constructor(isTTY = false) {
    this.isTTY = isTTY;
  }

  get text(): string {
    return this.#text;
  }

  write(text: string | Uint8Array): boolean {
    this.#text += Buffer.from(text).toString("utf8");
    return true;
  }

  once(): void {
    // Every write is accepted at once, so nothing waits for an event.
  }
}

type Answerer = (request: ReceivedRequest) => FakeAnswer | undefined;

/** A request that the fake daemon received. */
export interface ReceivedRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
}

/** An answer that a test gives in the daemon's place. */
export interface FakeAnswer {
  readonly status: number;
  readonly body?: JsonObject | string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A daemon on a socket in a folder of its own, and the CLI run against it. */
export class FakeDaemon implements AsyncDisposable {
  readonly stateFolder: string;
  readonly requests: string[] = [];
  /** Bodies of the requests that change something, in order. */
  readonly bodies: JsonObject[] = [];
  sandboxes: SandboxInfo[] = [];
  snapshots: JsonObject[] = [];
  keys: ApiKeyInfo[] = [];
  /** The settings that the daemon reports it was started with. */
  settings: DaemonInfo["settings"] = {};
  /** Answers a request in place of the daemon, unless it returns undefined. */
  answer: Answerer = () => undefined;
  readonly guest = new FakeGuest();
  readonly #server: Server;
  #nextId = 1;

  private constructor(stateFolder: string) {
    this.stateFolder = stateFolder;
    const agent = connectNodeAdapter({ routes: (router) => this.guest.routes(router) });
    this.#server = createServer((request, response) => {
      const sandboxId = request.headers["e2b-sandbox-id"];
      if (sandboxId === undefined) void this.#serve(request, response);
      else if (this.guest.turnedAwayCount > 0) this.#turnAway(response);
      else if (this.#isRunning(String(sandboxId))) agent(request, response);
      else send(response, { status: 502, body: { sandboxId, message: "not running", code: 502 } });
    });
  }

  static async start(): Promise<FakeDaemon> {
    const daemon = new FakeDaemon(await mkdtemp(join(tmpdir(), "torpor-cli-")));
    daemon.#server.listen(join(daemon.stateFolder, stateFiles.socket));
    await once(daemon.#server, "listening");
    return daemon;
  }

  get socketPath(): string {
    return join(this.stateFolder, stateFiles.socket);
  }

  /** Runs a command line against this daemon. */
  async run(argv: readonly string[], given: FakeSurroundings = {}): Promise<CliResult> {
    return await runForTest(argv, this.stateFolder, given);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.guest.killAll();
    this.#server.close();
    this.#server.closeAllConnections();
    await rm(this.stateFolder, { recursive: true, force: true });
  }

  #setTimeout(id: string, { timeoutMs }: JsonObject): FakeAnswer {
    this.#change(id, { endAtMs: timeoutMs === null ? null : Date.now() + Number(timeoutMs) });
    return { status: 204 };
  }

  /** The second child of every fork fails. */
  #fork(id: string, { count }: JsonObject): FakeAnswer {
    this.#find(id);
    const children = Array.from({ length: Number(count) }, (_, index) => {
      if (index !== 1) return { sandbox: this.#make() };
      return { error: new TorporError("storage.noSpace", "the disk is full").toBody() };
    });
    const headers = { "server-timing": "capture-memory;dur=1.5, total;dur=2" };
    return { status: 201, headers, body: JSON.stringify(children) };
  }

  #takeSnapshot(id: string, { name }: JsonObject): FakeAnswer {
    const snapshot = {
      snapshotID: `snap${this.snapshots.length + 1}`,
      names: name === undefined ? [] : [name],
      sandboxID: this.#find(id).id,
      createdAt: new Date().toISOString(),
      pool: 0,
    };
    this.snapshots.push(snapshot);
    return { status: 201, body: snapshot };
  }

  #removeSnapshot(reference: string): FakeAnswer {
    const rest = this.snapshots.filter(({ snapshotID }) => snapshotID !== reference);
    if (rest.length === this.snapshots.length) {
      throw new TorporError("template.missing", `there is no snapshot "${reference}"`);
    }
    this.snapshots = rest;
    return { status: 204 };
  }

  #createKey(name: string): FakeAnswer {
    const id = `key-${this.keys.length + 1}`;
    const made = { id, name, prefix: "e2b_12", createdAtMs: 0 };
    this.keys.push(made);
    return { status: 201, body: { ...made, key: "e2b_1234" } };
  }

  #removeKey(id: string): FakeAnswer {
    this.keys = this.keys.filter((one) => one.id !== id);
    return { status: 204 };
  }

  #turnAway(response: ServerResponse): void {
    this.guest.turnedAwayCount -= 1;
    const message = "the sandbox is being paused or resumed";
    send(response, { status: 503, body: { code: "unavailable", message } });
  }

  #isRunning(id: string): boolean {
    return this.sandboxes.some((one) => one.id === id && runningStates.has(one.state));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "", url: path = "", headers } = request;
    let body = "";
    for await (const chunk of request) body += String(chunk);
    this.requests.push(`${method} ${path}`);
    const sent = body === "" ? {} : parseObject(parseJson(body, "body"), "body");
    if (body !== "") this.bodies.push(sent);
    try {
      send(
        response,
        this.answer({ method, path, headers, body }) ?? this.#route(method, path, sent),
      );
    } catch (cause) {
      const error = TorporError.from(cause, "internal");
      send(response, { status: error.status, body: { ...error.toBody() } });
    }
  }

  #route(method: string, path: string, body: JsonObject): FakeAnswer {
    const [, first = "", second = "", third = "", fourth = ""] = path.split("/");
    switch (`${method} ${path.replaceAll(/\/i[0-9a-z]{3,}/g, "/:id")}`) {
      case "GET /health":
        return { status: 204 };
      case "GET /torpor/daemon":
        return { status: 200, body: { ...this.#describe() } };
      case "GET /torpor/sandboxes":
        return { status: 200, body: JSON.stringify(this.sandboxes) };
      case "GET /torpor/sandboxes/:id":
        return { status: 200, body: { ...this.#find(third) } };
      case "GET /torpor/sandboxes/:id/console":
        return { status: 200, body: { console: `hello from ${third}\n`, vmm: "" } };
      case "POST /v2/sandboxes":
        return this.#create(body);
      case "GET /sandboxes/:id":
        return { status: 200, body: accessBody(this.#find(second).id) };
      case "POST /sandboxes/:id/pause":
        if (this.#find(second).state === "paused") {
          throw new TorporError("sandbox.wrongState", "it is paused already");
        }
        this.#change(second, { state: "paused", pid: null });
        return { status: 204, headers: { "server-timing": "save-memory;dur=1.5, total;dur=2" } };
      case "POST /v2/sandboxes/:id/connect": {
        const wasRunning = this.#find(third).state === "running";
        if (wasRunning && body["previous"] === true) {
          throw new TorporError("sandbox.wrongState", "the sandbox is running");
        }
        this.#change(third, { state: "running", pid: process.pid });
        return { status: wasRunning ? 200 : 201, body: accessBody(third) };
      }
      case "POST /sandboxes/:id/timeout":
        return this.#setTimeout(second, body);
      case "POST /sandboxes/:id/fork":
        return this.#fork(second, body);
      case "POST /sandboxes/:id/snapshots":
        return this.#takeSnapshot(second, body);
      case "GET /snapshots":
        return { status: 200, body: JSON.stringify(this.snapshots) };
      case "GET /torpor/api-keys":
        return { status: 200, body: JSON.stringify(this.keys) };
      case "POST /torpor/api-keys":
        return this.#createKey(String(body["name"]));
      case "DELETE /sandboxes/:id":
        this.#find(second);
        this.sandboxes = this.sandboxes.filter(({ id }) => id !== second);
        return { status: 204 };
      default:
        if (path.startsWith("/api-keys/")) return this.#removeKey(second);
        if (path.startsWith("/templates/")) return this.#removeSnapshot(second);
        if (path.endsWith("/pool")) return { status: 204 };
        throw new TorporError("internal", `no route ${method} ${path} ${first} ${fourth}`);
    }
  }

  #describe(): DaemonInfo {
    return {
      pid: process.pid,
      version: "0.1.0",
      startedAtMs: 0,
      stateFolder: this.stateFolder,
      accelerator: "tcg",
      url: "http://127.0.0.1:7330",
      servedDomain: "localhost:7330",
      templates: ["base"],
      sandboxCount: this.sandboxes.length,
      settings: this.settings && {
        TORPOR_CACHE: join(this.stateFolder, "cache"),
        ...this.settings,
      },
    };
  }

  #find(id: string): SandboxInfo {
    const found = this.sandboxes.find((one) => one.id === id);
    if (found === undefined) throw new TorporError("sandbox.notFound", `there is no sandbox ${id}`);
    return found;
  }

  #change(id: string, change: Partial<SandboxInfo>): void {
    const found = this.#find(id);
    this.sandboxes = this.sandboxes.map((one) => (one === found ? { ...one, ...change } : one));
  }

  #create(body: JsonObject): FakeAnswer {
    if (body["templateID"] !== "base") {
      throw new TorporError(
        "template.missing",
        `there is no template ${String(body["templateID"])}`,
      );
    }
    return { status: 201, body: this.#make() };
  }

  #make(): JsonObject {
    const id = `inew${this.#nextId}`;
    this.#nextId += 1;
    this.sandboxes.push(sandboxInfo({ id }));
    return accessBody(id);
  }
}

/** The agent of every fake sandbox: runs commands as children of the test. */
export class FakeGuest {
  /** Users and tokens of the calls, in order. */
  readonly callers: { user: string | null; token: string | null }[] = [];
  readonly sizes: { cols: number; rows: number }[] = [];
  readonly starts: StartRequest[] = [];
  /** How many more requests the agent refuses, as it does while a snapshot is taken. */
  turnedAwayCount = 0;
  /** Called for each requested command, and awaited before it starts. */
  beforeStart: () => Promise<void> = () => Promise.resolve();
  /** Called when a command has started. */
  onStart: () => void = () => undefined;
  /** How many commands have started. */
  begunCount = 0;
  readonly #children = new Map<number, ChildProcess>();

  routes(router: ConnectRouter): void {
    const find = (
      selector: { case?: string | undefined; value?: unknown } | undefined,
    ): ChildProcess => {
      const child = this.#children.get(Number(selector?.value));
      if (child === undefined) throw new ConnectError("no such process", Code.NotFound);
      return child;
    };
    router.service(Process, {
      start: (request, context) => this.#start(request, context),
      sendInput: async ({ process: selected, input }) => {
        const { stdin } = find(selected?.selector);
        const bytes = input?.input.value ?? new Uint8Array();
        await new Promise<unknown>((resolve) => stdin?.write(bytes, resolve));
        return {};
      },
      closeStdin: ({ process: selected }) => {
        find(selected?.selector).stdin?.end();
        return {};
      },
      sendSignal: ({ process: selected, signal }) => {
        find(selected?.selector).kill(signal === Signal.SIGKILL ? "SIGKILL" : "SIGTERM");
        return {};
      },
      update: ({ pty }) => {
        if (pty?.size !== undefined) this.sizes.push({ cols: pty.size.cols, rows: pty.size.rows });
        return {};
      },
    });
  }

  /** How many commands have not ended. */
  get runningCount(): number {
    return this.#children.size;
  }

  killAll(): void {
    for (const child of this.#children.values()) child.kill("SIGKILL");
  }

  async *#start(request: StartRequest, { requestHeader }: HandlerContext) {
    this.callers.push({
      user: requestHeader.get("authorization"),
      token: requestHeader.get("x-access-token"),
    });
    this.starts.push(request);
    await this.beforeStart();
    const { cmd = "", args = [], envs = {}, cwd } = request.process ?? {};
    const child = spawn(cmd, args, {
      env: { PATH: process.env["PATH"], ...envs },
      cwd,
      stdio: [request.stdin === false ? "ignore" : "pipe", "pipe", "pipe"],
    });
    child.stdin?.on("error", () => undefined);
    // ORDER: subscribed at once; Node drops output without a listener when the process ends.
    const pieces = outputPieces(child);
    const closed = once(child, "close").catch((error: unknown) => error);
    const pid = child.pid ?? 0;
    if (pid === 0) {
      const reason =
        systemCode(await closed) === "EACCES" ? "permission denied" : "no such file or directory";
      throw new ConnectError(`cannot start '${cmd}': ${reason}`, Code.InvalidArgument);
    }
    this.#children.set(pid, child);
    this.begunCount += 1;
    yield { event: { event: { case: "start" as const, value: { pid } } } };
    this.onStart();
    for await (const [output] of pieces) {
      yield { event: { event: { case: "data" as const, value: { output } } } };
    }
    await closed;
    this.#children.delete(pid);
    yield { event: { event: { case: "end" as const, value: endOf(child) } } };
  }
}

type OutputPiece = { case: "stdout" | "stderr"; value: Uint8Array<ArrayBuffer> };

function outputPieces(child: ChildProcess): AsyncIterable<[OutputPiece]> {
  const pieces = new EventEmitter();
  const arrivals = on(pieces, "piece", { close: ["end"] });
  for (const name of ["stdout", "stderr"] as const) {
    child[name]?.on("data", (bytes: Buffer) => {
      pieces.emit("piece", { case: name, value: new Uint8Array(bytes) });
    });
  }
  child.once("close", () => pieces.emit("end"));
  return arrivals as AsyncIterable<[OutputPiece]>;
}

function endOf({ exitCode, signalCode }: ChildProcess) {
  if (signalCode === null) {
    return { exitCode: exitCode ?? 0, exited: true, status: `exit status ${exitCode}` };
  }
  const word = signalCode === "SIGKILL" ? "killed" : "terminated";
  return { exitCode: -1, exited: false, status: `signal: ${word}`, error: `signal: ${word}` };
}

/** The surroundings of a command line in a test. */
export interface FakeSurroundings {
  /** Standard output has no reader. */
  readonly readerIsGone?: boolean;
  readonly input?: string;
  readonly env?: NodeJS.ProcessEnv;
}

/** Exit code and output of a command line. */
export interface CliResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command line in this process. */
export async function runForTest(
  argv: readonly string[],
  stateFolder: string,
  { input = "", env = {}, readerIsGone = false }: FakeSurroundings = {},
): Promise<CliResult> {
  const stderr = new MemoryStream();
  const stdout = new MemoryStream();
  if (readerIsGone) stdout.write = () => failedWrite(output);
  const output = new Output(stdout, stderr, env);
  const session = new Session({
    output,
    input: Readable.from([Buffer.from(input)]),
    env,
    stateFolder,
    cacheFolder: join(stateFolder, "cache"),
    asJson: wantsJson(argv),
    launcherPath: join(stateFolder, "bin/torpor"),
    aptSourcePath: join(stateFolder, "apt.sources"),
  });
  const exitCode = await runCli(argv, session);
  return { exitCode, stdout: stdout.text, stderr: stderr.text };
}

/** Fails like a pipe without a reader: the error comes after the writer is done. */
function failedWrite(output: Output): boolean {
  process.nextTick(() => output.readerIsGone());
  return false;
}

function accessBody(id: string): JsonObject {
  return {
    sandboxID: id,
    templateID: "base-1",
    alias: "base",
    clientID: "torpor",
    envdVersion: "0.6.13",
    envdAccessToken: accessToken,
    domain: null,
  };
}

function send(response: ServerResponse, { status, body, headers = {} }: FakeAnswer): void {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  response.writeHead(status, { ...headers, "content-type": "application/json" });
  response.end(body === undefined ? undefined : text);
}
