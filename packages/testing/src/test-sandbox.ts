/** One sandbox of a daemon, seen from outside: through its API and through the edge. */
import assert from "node:assert/strict";
import { parseJson, parseObject, parseString } from "@torpor/std";
import type { ApiAnswer, DaemonApi, SandboxInfo } from "./daemon-api.ts";
import {
  type GuestAccess,
  GuestProcess,
  type GuestResult,
  type OutputOffsets,
} from "./guest-process.ts";

/** How to run a command in a sandbox. */
export interface RunOptions {
  /** The user; "user" by default. */
  readonly user?: "user" | "root";
  /** Whether the process has an open standard input. */
  readonly stdin?: boolean;
}

/** Without a timeout of its own a test's sandbox never ends by the clock. */
function timeoutOf(options: object): object {
  return "timeout" in options ? {} : { timeoutMs: null };
}

interface ForkResult {
  readonly sandbox?: object;
  readonly error?: { readonly message: string };
}

/** A sandbox with its id and token, and the daemon it is at. */
export class TestSandbox {
  readonly id: string;
  readonly accessToken: string;
  readonly api: DaemonApi;

  private constructor(api: DaemonApi, text: string) {
    const body = parseObject(parseJson(text, "answer"), "answer");
    this.api = api;
    this.id = parseString(body["sandboxID"], "sandboxID");
    this.accessToken = parseString(body["envdAccessToken"], "envdAccessToken");
  }

  /** Creates a sandbox. @throws the daemon's error */
  static async create(
    api: DaemonApi,
    template = "base",
    options: object = {},
  ): Promise<TestSandbox> {
    const body = { templateID: template, ...timeoutOf(options), ...options };
    const { text } = await api.call("POST", "/v2/sandboxes", body);
    return new TestSandbox(api, text);
  }

  /** Finds the same sandbox at a daemon that was started later. @throws sandbox.notFound */
  static async find(api: DaemonApi, id: string): Promise<TestSandbox> {
    return new TestSandbox(api, (await api.call("GET", `/sandboxes/${id}`)).text);
  }

  /** Pauses the sandbox. @throws the daemon's error; sandbox.wrongState if it is paused already */
  async pause(): Promise<void> {
    await this.api.call("POST", `/sandboxes/${this.id}/pause`, {});
  }

  /**
   * Resumes the sandbox. @returns the answer: its status is 201, or 200 when it was running already
   */
  async resume(): Promise<ApiAnswer> {
    return await this.api.call("POST", `/v2/sandboxes/${this.id}/connect`, {
      keepTimeout: true,
    });
  }

  /** Resumes from the snapshot before the newest one. */
  async resumePrevious(): Promise<void> {
    await this.api.call("POST", `/v2/sandboxes/${this.id}/connect`, {
      previous: true,
      keepTimeout: true,
    });
  }

  /** Makes sandboxes from this instant; `errors` has one entry for each child that failed. */
  async fork(count = 1): Promise<{ children: readonly TestSandbox[]; errors: readonly string[] }> {
    const { text } = await this.api.call("POST", `/sandboxes/${this.id}/fork`, {
      count,
      timeoutMs: null,
    });
    const results = parseJson(text, "answer") as readonly ForkResult[];
    assert.equal(results.length, count, "one result for each child");
    return {
      children: results.flatMap(({ sandbox }) =>
        sandbox === undefined ? [] : [new TestSandbox(this.api, JSON.stringify(sandbox))],
      ),
      errors: results.flatMap(({ error }) => (error === undefined ? [] : [error.message])),
    };
  }

  /** Takes a snapshot that sandboxes can be made from; returns its id. */
  async snapshot(name?: string): Promise<string> {
    const { text } = await this.api.call("POST", `/sandboxes/${this.id}/snapshots`, { name });
    return parseString(parseObject(parseJson(text, "answer"), "answer")["snapshotID"], "id");
  }

  async remove(): Promise<void> {
    await this.api.call("DELETE", `/sandboxes/${this.id}`);
  }

  async info(): Promise<SandboxInfo> {
    const { text } = await this.api.call("GET", `/torpor/sandboxes/${this.id}`);
    return parseJson(text, "info") as SandboxInfo;
  }

  async start(
    argv: readonly [string, ...string[]],
    options: RunOptions = {},
  ): Promise<GuestProcess> {
    return await GuestProcess.start(
      this.#access,
      argv,
      options.user ?? "user",
      options.stdin ?? false,
    );
  }

  /** Listens to a process from where an earlier listener had to stop. */
  async reconnect(pid: number, offsets: OutputOffsets): Promise<GuestProcess> {
    return await GuestProcess.connect(this.#access, pid, offsets);
  }

  /** Runs a command to its end, whatever its exit code. */
  async run(argv: readonly [string, ...string[]], options?: RunOptions): Promise<GuestResult> {
    using process = await this.start(argv, options);
    return await process.finish();
  }

  /** Runs a line of shell that must succeed, and returns what it printed, trimmed. */
  async shell(line: string, options?: RunOptions): Promise<string> {
    const { exitCode, stdout, stderr, status } = await this.run(["sh", "-c", line], options);
    assert.equal(exitCode, 0, `${line}: ${status}: ${stderr}`);
    return stdout.trim();
  }

  /** Sends a request to a port of the guest, through the edge. */
  async request(
    port: number,
    method: string,
    path: string,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<ApiAnswer> {
    return await this.api.exchange(method, path, undefined, {
      "e2b-sandbox-id": this.id,
      "e2b-sandbox-port": String(port),
      ...headers,
    });
  }

  get #access(): GuestAccess {
    return {
      socketPath: this.api.socketPath,
      sandboxId: this.id,
      accessToken: this.accessToken,
    };
  }
}
