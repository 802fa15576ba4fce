/**
 * The CLI's connection to the daemon: JSON over HTTP on the Unix socket in the state folder. The
 * daemon trusts every process that can open the socket, so no key is sent.
 *
 * Every call has a deadline. A failure is a `TorporError`: the daemon's own, rebuilt from the body
 * it sent, or one made here that says whether the request can have arrived. Each call opens a
 * connection of its own, so none is left to keep the process alive.
 *
 * A request that makes something carries an `Idempotency-Key`, and is sent once more when the
 * connection broke before the answer: a restarted daemon answers with what the first request made,
 * or makes it.
 */
import { randomUUID } from "node:crypto";
import { type IncomingMessage, request as httpRequest } from "node:http";
import {
  Deadline,
  type Effect,
  type ErrorBody,
  type JsonObject,
  type StepTiming,
  TorporError,
  parseJson,
  parseObject,
  parseString,
  systemCode,
} from "@torpor/std";
import {
  type ApiKeyInfo,
  type Changed,
  type CreatedSandbox,
  type DaemonInfo,
  type Forked,
  type OnTimeout,
  type SandboxAccess,
  type SandboxInfo,
  type SandboxLogs,
  type SnapshotInfo,
  parseAccess,
  parseApiKey,
  parseDaemon,
  parseForkResult,
  parseList,
  parseSandbox,
  parseSnapshot,
} from "./daemon-answers.ts";
import { parseServerTiming } from "./server-timing.ts";

const healthMs = 2_000;
const lookMs = 15_000;
/** LIMITS of the verbs; generous, because an emulated machine is some twenty times slower. */
const createMs = 300_000;
const resumeMs = 300_000;
/** Saving memory to a slow disk may take minutes. */
const pauseMs = 600_000;
const removeMs = 120_000;
/** For each child of a fork; a few are made at a time. */
const forkChildMs = 60_000;
/** A restarted daemon first settles what the one before left. */
const defaultRestartMs = 30_000;
const restartPollMs = 100;
/** LIMIT: the largest answer is a console, and the daemon truncates that. */
const answerBytesMax = 16 << 20;

/** Parameters of a new sandbox. */
export interface NewSandbox {
  readonly template: string;
  readonly env: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly lifetime?: LifetimeRequest | undefined;
}

/** How long a sandbox may live; null is never, and the daemon decides what is left out. */
export interface LifetimeRequest {
  readonly timeoutMs?: number | null | undefined;
  readonly onTimeout?: OnTimeout | undefined;
  readonly idleTimeoutMs?: number | null | undefined;
  readonly maxRunMs?: number | null | undefined;
}

/** How to wake a sandbox. */
export interface ResumeRequest {
  /** Replaces what was left of the timeout; null removes it. */
  readonly timeoutMs?: number | null | undefined;
  /** Continue from the snapshot before the newest one, which is discarded. */
  readonly previous?: boolean | undefined;
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly text: string;
}

type Method = "GET" | "POST" | "DELETE";

/**
 * Calls the daemon of one state folder. Every method throws the daemon's error, daemon.unreachable
 * or deadline.exceeded.
 */
export class DaemonClient {
  readonly socketPath: string;
  readonly #restartMs: number;

  /** @param restartMs How long to wait for a lost daemon to return; only tests pass one. */
  constructor(socketPath: string, restartMs = defaultRestartMs) {
    this.socketPath = socketPath;
    this.#restartMs = restartMs;
  }

  /** Whether a daemon answers; does not throw. */
  async isAnswering(): Promise<boolean> {
    try {
      await this.#send("GET", "/health", undefined, Deadline.after(healthMs, "health check"));
      return true;
    } catch (error) {
      if (TorporError.is(error) && error.code === "daemon.unreachable") return false;
      throw error;
    }
  }

  async describe(): Promise<DaemonInfo> {
    return parseDaemon(await this.#get("/torpor/daemon"));
  }

  async list(): Promise<readonly SandboxInfo[]> {
    return parseList(await this.#get("/torpor/sandboxes"), "sandboxes").map(parseSandbox);
  }

  /** Reads one sandbox. @throws sandbox.notFound */
  async look(id: string): Promise<SandboxInfo> {
    return parseSandbox(await this.#get(`/torpor/sandboxes/${encodeURIComponent(id)}`));
  }

  /**
   * Makes a sandbox. @throws template.missing, argument.invalid, vmm.failed and other errors of the
   * daemon
   */
  async create(sandbox: NewSandbox): Promise<CreatedSandbox> {
    const { text, headers } = await this.#make(
      "/v2/sandboxes",
      {
        templateID: sandbox.template,
        metadata: sandbox.metadata,
        envVars: sandbox.env,
        ...lifetimeBody(sandbox.lifetime),
      },
      Deadline.after(createMs, "creating the sandbox"),
    );
    return { ...parseAccess(parseJson(text, "answer")), timings: timingsOf(headers) };
  }

  /** The id and token that open the agent of an existing sandbox. */
  async access(id: string): Promise<SandboxAccess> {
    return parseAccess(await this.#get(`/sandboxes/${encodeURIComponent(id)}`));
  }

  /** Puts a sandbox to sleep; a sleeping one stays as it is. @throws sandbox.wrongState */
  async pause(id: string): Promise<Changed> {
    const path = `/sandboxes/${encodeURIComponent(id)}/pause`;
    try {
      const deadline = Deadline.after(pauseMs, "pausing the sandbox");
      const { headers } = await this.#send("POST", path, {}, deadline);
      return { changed: true, timings: timingsOf(headers) };
    } catch (error) {
      if (!TorporError.is(error) || error.code !== "sandbox.wrongState") throw error;
      // Every state that cannot be paused has the same code, so the state decides.
      const { state } = await this.look(id);
      if (state !== "paused") throw error;
      return { changed: false, timings: [] };
    }
  }

  /** Wakes a sandbox; a running one stays as it is, except for its timeout. */
  async resume(id: string, request: ResumeRequest = {}): Promise<Changed> {
    const path = `/v2/sandboxes/${encodeURIComponent(id)}/connect`;
    const deadline = Deadline.after(resumeMs, "resuming the sandbox");
    // The rest of the timeout stays, unless the request sets another.
    const kept = request.timeoutMs === undefined ? { keepTimeout: true } : {};
    const body = { ...kept, ...request };
    const { status, headers } = await this.#send("POST", path, body, deadline);
    return { changed: status === 201, timings: timingsOf(headers) };
  }

  /** Makes sandboxes that begin at this instant of another. @throws what saving throws */
  async fork(id: string, count: number, lifetime: LifetimeRequest): Promise<Forked> {
    const { text, headers } = await this.#make(
      `/sandboxes/${encodeURIComponent(id)}/fork`,
      { count, ...lifetimeBody(lifetime) },
      Deadline.after(pauseMs + count * forkChildMs, "forking the sandbox"),
    );
    const children = parseList(parseJson(text, "answer"), "children").map(parseForkResult);
    return { children, timings: timingsOf(headers) };
  }

  /** Sets the timeout, counted from now; null removes it. @throws sandbox.notFound */
  async setTimeout(id: string, timeoutMs: number | null): Promise<void> {
    const path = `/sandboxes/${encodeURIComponent(id)}/timeout`;
    const deadline = Deadline.after(pauseMs, "setting the timeout");
    await this.#send("POST", path, { timeoutMs }, deadline);
  }

  /**
   * Takes a snapshot that sandboxes can be made from. @throws argument.invalid for an invalid name
   */
  async takeSnapshot(id: string, name: string | undefined): Promise<SnapshotInfo> {
    const path = `/sandboxes/${encodeURIComponent(id)}/snapshots`;
    const deadline = Deadline.after(pauseMs, "taking the snapshot");
    const { text } = await this.#make(path, { name }, deadline);
    return parseSnapshot(parseJson(text, "answer"));
  }

  async snapshots(): Promise<readonly SnapshotInfo[]> {
    return parseList(await this.#get("/snapshots"), "snapshots").map(parseSnapshot);
  }

  /** Removes a snapshot by id or name. @throws template.missing */
  async removeSnapshot(reference: string): Promise<void> {
    const deadline = Deadline.after(removeMs, "removing the snapshot");
    await this.#send("DELETE", `/templates/${encodeURIComponent(reference)}`, undefined, deadline);
  }

  /** Keeps `count` sandboxes of a snapshot ready. @throws template.missing */
  async setPool(reference: string, count: number): Promise<void> {
    const path = `/torpor/snapshots/${encodeURIComponent(reference)}/pool`;
    await this.#send("POST", path, { count }, Deadline.after(lookMs, "setting the pool"));
  }

  /** Removes a sandbox. @throws sandbox.notFound */
  async remove(id: string): Promise<void> {
    const deadline = Deadline.after(removeMs, "removing the sandbox");
    await this.#send("DELETE", `/sandboxes/${encodeURIComponent(id)}`, undefined, deadline);
  }

  async logs(id: string): Promise<SandboxLogs> {
    const path = `/torpor/sandboxes/${encodeURIComponent(id)}/console`;
    const body = parseObject(await this.#get(path), "console");
    return {
      console: parseString(body["console"], "console", answerBytesMax),
      vmm: parseString(body["vmm"], "vmm", answerBytesMax),
    };
  }

  async apiKeys(): Promise<readonly ApiKeyInfo[]> {
    return parseList(await this.#get("/torpor/api-keys"), "keys").map(parseApiKey);
  }

  /** Makes an API key. The secret itself is in this answer and nowhere else. */
  async createApiKey(name: string): Promise<ApiKeyInfo & { readonly key: string }> {
    const deadline = Deadline.after(lookMs, "creating the key");
    const { text } = await this.#send("POST", "/torpor/api-keys", { name }, deadline);
    const body = parseObject(parseJson(text, "answer"), "key");
    const key = parseString(body["key"], "key");
    // COMPAT: this answer may lack the time of creation.
    return { ...parseApiKey({ createdAtMs: Date.now(), ...body }), key };
  }

  /** Revokes a key at once. @throws argument.invalid */
  async removeApiKey(id: string): Promise<void> {
    const deadline = Deadline.after(lookMs, "removing the key");
    await this.#send("DELETE", `/api-keys/${encodeURIComponent(id)}`, undefined, deadline);
  }

  async #get(path: string): Promise<unknown> {
    const { text } = await this.#send(
      "GET",
      path,
      undefined,
      Deadline.after(lookMs, `GET ${path}`),
    );
    return parseJson(text, "answer");
  }

  /** Sends a request that takes effect once, although it may be sent twice. @throws as `#send` */
  async #make(path: string, body: JsonObject, deadline: Deadline): Promise<Answer> {
    const headers = { "idempotency-key": randomUUID() };
    try {
      return await this.#send("POST", path, body, deadline, headers);
    } catch (error) {
      if (!isBrokenLine(error)) throw error;
      await this.#untilAnswering(error, deadline);
    }
    return await this.#send("POST", path, body, deadline, headers);
  }

  /** @throws daemon.unreachable when no daemon answers again, deadline.exceeded */
  async #untilAnswering(broken: TorporError, deadline: Deadline): Promise<void> {
    const restart = Deadline.after(this.#restartMs, "waiting for the daemon to answer again");
    while (!(await this.isAnswering())) {
      deadline.check();
      if (restart.expired) {
        const message = `${broken.rawMessage}, and none answered again in ${this.#restartMs / 1000} s`;
        throw new TorporError("daemon.unreachable", message, {
          cause: broken,
          effect: "maybe",
          advice: "Start the daemon with `torpor up`, and look with `torpor ls` what was made.",
        });
      }
      await restart.sleep(restartPollMs);
    }
  }

  /** @throws the daemon's error, daemon.unreachable, deadline.exceeded */
  async #send(
    method: Method,
    path: string,
    body: JsonObject | undefined,
    deadline: Deadline,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Answer> {
    const answer = await this.#exchange(method, path, body, deadline, headers);
    if (answer.status < 400) return answer;
    throw TorporError.fromBody(errorBody(answer, method, path));
  }

  async #exchange(
    method: Method,
    path: string,
    body: JsonObject | undefined,
    deadline: Deadline,
    own: Readonly<Record<string, string>>,
  ): Promise<Answer> {
    const payload = body === undefined ? "" : JSON.stringify(body);
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    const outgoing = httpRequest({
      socketPath: this.socketPath,
      agent: false,
      method,
      path,
      headers: {
        host: "torpor",
        connection: "close",
        ...own,
        ...(body === undefined
          ? {}
          : { "content-type": "application/json", "content-length": Buffer.byteLength(payload) }),
      },
    });
    outgoing.once("error", reject);
    outgoing.once("response", (response) => void readAnswer(response).then(resolve, reject));
    outgoing.end(payload);
    try {
      return await deadline.race(promise);
    } catch (cause) {
      outgoing.destroy();
      throw asDaemonError(cause, this.socketPath, method);
    }
  }
}

/**
 * Without a request a sandbox never ends: the wire has a default that suits programs and not
 * people.
 */
function lifetimeBody({ onTimeout, timeoutMs, ...rest }: LifetimeRequest = {}): JsonObject {
  return {
    ...rest,
    timeoutMs: timeoutMs ?? null,
    autoPause: onTimeout === undefined ? undefined : onTimeout === "pause",
  };
}

async function readAnswer(response: IncomingMessage): Promise<Answer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > answerBytesMax) {
      throw new TorporError("internal", "the daemon's answer has no end", { effect: "maybe" });
    }
    chunks.push(chunk);
  }
  const { statusCode: status = 0, headers } = response;
  return { status, headers, text: Buffer.concat(chunks).toString("utf8") };
}

/** The socket is missing, nothing listens on it, or the path is too long for a socket. */
const refusals = new Set(["ENOENT", "ECONNREFUSED", "ENOTSOCK", "EINVAL", "ENAMETOOLONG"]);

function asDaemonError(cause: unknown, socketPath: string, method: Method): TorporError {
  const effect: Effect = method === "GET" ? "none" : "maybe";
  if (TorporError.is(cause)) {
    return new TorporError(cause.code, cause.rawMessage, { cause, effect, advice: cause.advice });
  }
  const code = systemCode(cause) ?? "";
  if (code === "EACCES" || code === "EPERM") {
    return new TorporError("root.required", `${socketPath} may not be opened by this user`, {
      cause,
      advice: "Run the same command as the user that started the daemon.",
    });
  }
  if (refusals.has(code)) {
    return new TorporError("daemon.unreachable", `no daemon answers on ${socketPath}`, { cause });
  }
  const text = cause instanceof Error ? cause.message : String(cause);
  return new TorporError("daemon.unreachable", `the line to the daemon broke: ${text}`, {
    cause,
    effect,
  });
}

/** Whether the connection broke after the request was sent, so that its effect is unknown. */
function isBrokenLine(error: unknown): error is TorporError {
  return TorporError.is(error) && error.code === "daemon.unreachable" && error.effect === "maybe";
}

function errorBody({ status, text }: Answer, method: Method, path: string): Partial<ErrorBody> {
  try {
    return parseObject(parseJson(text, "answer"), "answer");
  } catch {
    return { message: `${method} ${path} was answered with status ${status}` };
  }
}

function timingsOf(headers: IncomingMessage["headers"]): readonly StepTiming[] {
  const header = headers["server-timing"];
  return parseServerTiming(Array.isArray(header) ? header.join(",") : header);
}
