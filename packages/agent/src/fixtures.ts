/** Makes agents for all tests: real server, real processes; only the machine is tame. */
import { randomUUID } from "node:crypto";
import { mkdir, mkdtemp, readFile, readdir, rm, rmdir, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type CallOptions, type Client, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import {
  Filesystem,
  type InitRequest,
  type PrepareRequest,
  Process,
  type ProcessEvent,
  entropyBytes,
  hostKeyHeader,
  initRoute,
} from "@torpor/protocol";
import { type Failpoint, jsonLogger } from "@torpor/std";
import type { Accounts } from "./accounts.ts";
import { startAgent } from "./agent.ts";
import { type AgentLimits, defaultLimits } from "./config.ts";
import type { Machine } from "./machine.ts";
import { monotonicMs } from "./monotonic-clock.ts";

/** An agent under test, with clients. Disposing closes it and removes its folder. */
export interface TestAgent extends AsyncDisposable {
  readonly url: string;
  readonly port: number;
  /** A folder of the test's own, removed at the end. */
  readonly folder: string;
  readonly process: Client<typeof Process>;
  readonly files: Client<typeof Filesystem>;
  readonly machine: TameMachine;
  /** The agent's log, oldest entry first. */
  readonly logged: readonly LogEntry[];
  /** Sends an init that differs from the usual one by `changes`. */
  init(changes?: Partial<InitRequest>, key?: string): Promise<Response>;
  /** Calls one of the host's other routes. */
  host(route: string, key?: string, body?: PrepareRequest): Promise<Response>;
}

/** One line of the agent's log; the fields that tests read. */
export interface LogEntry {
  readonly message: string;
  readonly hook?: string;
  readonly status?: string;
  readonly output?: string;
}

/** A machine that records calls instead of making them. */
export interface TameMachine extends Machine {
  /** The calls, in order. */
  readonly calls: string[];
  /** How far its wall clock is off, in milliseconds. */
  offMs: number;
  /**
   * How long it stands still before each setting of its clock, in milliseconds; each value is used
   * once.
   */
  readonly lateMs: number[];
  /** The method that throws. */
  failing: keyof Machine | undefined;
}

/** How the agent under test differs from the usual one. */
export interface TestAgentOptions {
  readonly limits?: Partial<AgentLimits>;
  readonly userCgroup?: string;
  readonly failpoint?: Failpoint;
  readonly accounts?: Accounts;
  /** Folder of an earlier agent that this one replaces; the earlier agent removes it. */
  readonly folder?: string;
}

/** The host key of every agent under test after its first init. */
export const testKey = "key of the host";

/** Starts an agent on loopback, on a port of its own. */
export async function startTestAgent(options: TestAgentOptions = {}): Promise<TestAgent> {
  const folder = options.folder ?? (await mkdtemp(join(tmpdir(), "torpor-agent-test-")));
  const machine = tameMachine();
  const logged: LogEntry[] = [];
  const agent = await startAgent({
    config: {
      address: "127.0.0.1",
      port: 0,
      userCgroup: options.userCgroup ?? null,
      markerFolder: join(folder, ".markers"),
      identityPath: join(folder, ".torpor", "identity.json"),
      generationPath: join(folder, ".torpor", "generation"),
      hooksFolder: join(folder, ".hooks"),
      path: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      environmentFile: join(folder, ".environment"),
      localeFile: join(folder, ".locale"),
      limits: { ...defaultLimits, ...options.limits },
    },
    machine,
    log: jsonLogger((line) => void logged.push(JSON.parse(line) as LogEntry)),
    ...(options.accounts === undefined ? {} : { accounts: options.accounts }),
    ...(options.failpoint === undefined ? {} : { failpoint: options.failpoint }),
  });
  const url = `http://127.0.0.1:${agent.port}`;
  const transport = createConnectTransport({ baseUrl: url, httpVersion: "1.1" });
  return {
    url,
    port: agent.port,
    folder,
    process: createClient(Process, transport),
    files: createClient(Filesystem, transport),
    machine,
    logged,
    init: async (changes = {}, key = testKey) => {
      const body: InitRequest = {
        reason: "create",
        machine: null,
        suspendedMs: 0,
        generation: 1,
        entropy: Buffer.alloc(entropyBytes, 1).toString("base64"),
        timestampMs: Date.now(),
        timestampMonoMs: Math.round(monotonicMs()),
        hostKey: testKey,
        sandboxId: "sandbox",
        templateId: "template",
        accessToken: null,
        envVars: null,
        defaultUser: "root",
        defaultWorkdir: null,
        ...changes,
      };
      return await fetch(`${url}${initRoute}`, {
        method: "POST",
        headers: { [hostKeyHeader]: key },
        body: JSON.stringify(body),
      });
    },
    host: async (route, key = testKey, body = { reason: "pause" }) =>
      await fetch(`${url}${route}`, {
        method: "POST",
        headers: { [hostKeyHeader]: key },
        body: JSON.stringify(body),
      }),
    [Symbol.asyncDispose]: async () => {
      await agent[Symbol.asyncDispose]();
      if (options.folder === undefined) await rm(folder, { recursive: true, force: true });
    },
  };
}

function tameMachine(): TameMachine {
  const calls: string[] = [];
  const call = (name: keyof Machine, detail = ""): void => {
    calls.push(`${name}${detail}`);
    if (machine.failing === name) throw new TypeError(`${name} failed`);
  };
  const machine: TameMachine = {
    calls,
    offMs: 0,
    lateMs: [],
    failing: undefined,
    renewGenerators: () => call("renewGenerators"),
    wallClockMs: () => Date.now() + machine.offMs,
    setWallClock: (unixMs) => {
      call("setWallClock");
      machine.offMs = unixMs - Date.now() - (machine.lateMs.shift() ?? 0);
    },
    becomeMachine: ({ hostname }) => call("becomeMachine", ` ${hostname}`),
    renewSshHostKeys: async () => call("renewSshHostKeys"),
    destroyTcpConnections: () => {
      call("destroyTcpConnections");
      return { count: 3, complete: true };
    },
    shrinkHeap: () => call("shrinkHeap"),
    protectAgent: async () => undefined,
  };
  return machine;
}

/** A stream of events that a test takes apart one by one. */
export class Events {
  readonly #events: AsyncIterator<{ event?: ProcessEvent | undefined }>;

  constructor(events: AsyncIterable<{ event?: ProcessEvent | undefined }>) {
    this.#events = events[Symbol.asyncIterator]();
  }

  /** The next event that is not a keepalive; undefined after the last. */
  async next(): Promise<ProcessEvent["event"] | undefined> {
    for (;;) {
      const next = await this.#events.next();
      if (next.done === true) return undefined;
      const event = next.value.event?.event;
      if (event?.case !== "keepalive") return event;
    }
  }

  /** The process id of the start event, which must be next. */
  async pid(): Promise<number> {
    const event = await this.next();
    if (event?.case !== "start") throw new TypeError(`start, not ${event?.case}`);
    return event.value.pid;
  }

  /** Collects output until `text` has been seen in it. */
  async until(text: string): Promise<string> {
    let seen = "";
    while (!seen.includes(text)) {
      const event = await this.next();
      if (event?.case !== "data") throw new TypeError(`${text}, not ${event?.case} after ${seen}`);
      seen += Buffer.from(event.value.output.value ?? []).toString("utf8");
    }
    return seen;
  }

  /** Collects everything to the end. */
  async rest(): Promise<Ended> {
    const ended: Ended = { stdout: "", stderr: "", pty: "", kinds: [], end: undefined };
    for (let event = await this.next(); event !== undefined; event = await this.next()) {
      if (event.case !== undefined) ended.kinds.push(event.case);
      if (event.case === "end") {
        const { exitCode, exited, status, error } = event.value;
        ended.end = { exitCode, exited, status, error };
      }
      if (event.case !== "data" || event.value.output.case === undefined) continue;
      const { case: kind, value } = event.value.output;
      ended[kind] += Buffer.from(value).toString("utf8");
    }
    return ended;
  }

  /** Disconnects, as a client that lost interest. */
  async leave(): Promise<void> {
    await this.#events.return?.();
  }
}

interface Ended {
  stdout: string;
  stderr: string;
  pty: string;
  readonly kinds: string[];
  end:
    | {
        readonly exitCode: number;
        readonly exited: boolean;
        readonly status: string;
        readonly error: string | undefined;
      }
    | undefined;
}

/** How `startScript` starts its process; the rest are options of the call. */
export interface StartOptions extends CallOptions {
  readonly stdin?: boolean;
  readonly tag?: string;
  readonly cwd?: string;
  readonly envs?: Record<string, string>;
  readonly terminal?: { cols: number; rows: number };
}

/** Starts a shell script. */
export function startScript(agent: TestAgent, script: string, options: StartOptions = {}): Events {
  const { stdin = false, tag, cwd, envs = {}, terminal, ...call } = options;
  return new Events(
    agent.process.start(
      {
        process: {
          cmd: "/bin/sh",
          args: ["-c", script],
          envs,
          ...(cwd === undefined ? {} : { cwd }),
        },
        stdin,
        ...(tag === undefined ? {} : { tag }),
        ...(terminal === undefined ? {} : { pty: { size: terminal } }),
      },
      call,
    ),
  );
}

/** Call options that name the user of a request. */
export function asUser(name: string): { headers: Record<string, string> } {
  return { headers: { Authorization: `Basic ${Buffer.from(`${name}:`).toString("base64")}` } };
}

/** Selects a process by its id. */
export function byPid(pid: number): { selector: { case: "pid"; value: number } } {
  return { selector: { case: "pid", value: pid } };
}

/** Input for a process with pipes. */
export function stdinInput(text: string): { input: { case: "stdin"; value: Uint8Array } } {
  return { input: { case: "stdin", value: Buffer.from(text) } };
}

/** Input for a process with a terminal. */
export function ptyInput(text: string): { input: { case: "pty"; value: Uint8Array } } {
  return { input: { case: "pty", value: Buffer.from(text) } };
}

/** Resolves when no such process runs any more; a zombie counts as gone. */
export async function untilGone(pid: number): Promise<void> {
  for (;;) {
    const stats = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => undefined);
    if (stats === undefined || /\) [ZX] /.test(stats)) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** A cgroup for one test. Disposing kills its processes and removes it. */
export interface TestCgroup extends AsyncDisposable {
  readonly path: string;
}

/** A cgroup v2 of the test's own, or undefined where none can be made. */
export async function makeTestCgroup(): Promise<TestCgroup | undefined> {
  for (const root of ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]) {
    const isV2 = await stat(join(root, "cgroup.controllers")).catch(() => undefined);
    if (isV2 === undefined) continue;
    const path = join(root, `torpor-agent-test-${randomUUID()}`);
    const made = await mkdir(path).then(
      () => true,
      () => false,
    );
    if (made) return { path, [Symbol.asyncDispose]: async () => await removeCgroup(path) };
  }
  return undefined;
}

async function removeCgroup(path: string): Promise<void> {
  await writeFile(join(path, "cgroup.freeze"), "0");
  await writeFile(join(path, "cgroup.kill"), "1").catch(() => undefined);
  // It is busy until the last of its processes has been waited for.
  for (;;) {
    for (const entry of await readdir(path, { withFileTypes: true })) {
      if (entry.isDirectory()) await rmdir(join(path, entry.name)).catch(() => undefined);
    }
    const removed = await rmdir(path).then(
      () => true,
      () => false,
    );
    if (removed) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
