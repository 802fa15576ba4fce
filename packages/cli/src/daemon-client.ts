/**
 * The CLI's end of the line to the daemon: JSON over HTTP on the Unix socket in the state folder.
 * Whoever may open the socket is trusted, so no key is sent.
 *
 * Every call has a deadline. A failure is a `TorporError`: the daemon's own, rebuilt from the body
 * it sent, or one made here that says whether the request can have arrived. Each call opens a
 * connection of its own, so none is left to keep the process alive.
 *
 * What makes something new is sent with an `Idempotency-Key`, and once more when the line broke before
 * the answer: a daemon that was restarted answers with what the first request made, or makes it.
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
/** LIMITS of the verbs; wide, because an emulated machine is some twenty times slower. */
const createMs = 300_000;
const resumeMs = 300_000;
/** Saving memory to a slow disk may take minutes. */
const pauseMs = 600_000;
const removeMs = 120_000;
/** Of each child of a fork; a few are made at a time. */
const forkChildMs = 60_000;
/** A daemon that is started anew settles what the one before left. */
const defaultRestartMs = 30_000;
const restartPollMs = 100;
/** LIMIT: the largest answer is a console, and the daemon cuts that. */
const answerBytesMax = 16 << 20;

export interface NewSandbox {
  readonly template: string;
  readonly env: Readonly<Record<string, string>>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly lifetime?: LifetimeRequest | undefined;
}

/** How long a sandbox shall live; null is never, and what is left out the daemon decides. */
export interface LifetimeRequest {
  readonly timeoutMs?: number | null | undefined;
  readonly onTimeout?: OnTimeout | undefined;
  readonly idleTimeoutMs?: number | null | undefined;
  readonly maxRunMs?: number | null | undefined;
}

export interface ResumeRequest {
  /** Takes the place of what was left; null takes it away. */
  readonly timeoutMs?: number | null | undefined;
  /** Go on from the snapshot before the newest one, which is given up. */
  readonly previous?: boolean | undefined;
}

interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly text: string;
}

type Method = "GET" | "POST" | "DELETE";

export class DaemonClient {
  readonly socketPath: string;
  readonly #restartMs: number;

  /** @param restartMs How long a daemon that was lost is waited for; only tests pass one. */
  constructor(socketPath: string, restartMs = defaultRestartMs) {
    this.socketPath = socketPath;
    this.#restartMs = restartMs;
  }

  /** Whether a daemon answers. */
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

  /** @throws sandbox.notFound */
  async look(id: string): Promise<SandboxInfo> {
    return parseSandbox(await this.#get(`/torpor/sandboxes/${encodeURIComponent(id)}`));
  }

  /** @throws template.missing, argument.invalid, vmm.failed and others of the daemon */
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

  /** The id and token with which the agent of an existing sandbox is reached. */
  async access(id: string): Promise<SandboxAccess> {
    return parseAccess(await this.#get(`/sandboxes/${encodeURIComponent(id)}`));
  }

  /** Puts a sandbox to sleep; one that sleeps already stays as it is. @throws sandbox.wrongState */
  async pause(id: string): Promise<Changed> {
    const path = `/sandboxes/${encodeURIComponent(id)}/pause`;
    try {
      const deadline = Deadline.after(pauseMs, "pausing the sandbox");
      const { headers } = await this.#send("POST", path, {}, deadline);
      return { changed: true, timings: timingsOf(headers) };
    } catch (error) {
      if (!TorporError.is(error) || error.code !== "sandbox.wrongState") throw error;
      // The same code stands for every state that cannot be paused, so the state decides.
      const { state } = await this.look(id);
      if (state !== "paused") throw error;
      return { changed: false, timings: [] };
    }
  }

  /** Wakes a sandbox; one that runs already stays as it is, but for its timeout. */
  async resume(id: string, request: ResumeRequest = {}): Promise<Changed> {
    const path = `/v2/sandboxes/${encodeURIComponent(id)}/connect`;
    const deadline = Deadline.after(resumeMs, "resuming the sandbox");
    // What was left of the timeout stays, unless it is set anew.
    const kept = request.timeoutMs === undefined ? { keepTimeout: true } : {};
    const body = { ...kept, ...request };
    const { status, headers } = await this.#send("POST", path, body, deadline);
    return { changed: status === 201, timings: timingsOf(headers) };
  }

  /** New sandboxes that begin at this instant of another. @throws what saving throws */
  async fork(id: string, count: number, lifetime: LifetimeRequest): Promise<Forked> {
    const { text, headers } = await this.#make(
      `/sandboxes/${encodeURIComponent(id)}/fork`,
      { count, ...lifetimeBody(lifetime) },
      Deadline.after(pauseMs + count * forkChildMs, "forking the sandbox"),
    );
    const children = parseList(parseJson(text, "answer"), "children").map(parseForkResult);
    return { children, timings: timingsOf(headers) };
  }

  /** From now on; null: never. @throws sandbox.notFound */
  async setTimeout(id: string, timeoutMs: number | null): Promise<void> {
    const path = `/sandboxes/${encodeURIComponent(id)}/timeout`;
    const deadline = Deadline.after(pauseMs, "setting the timeout");
    await this.#send("POST", path, { timeoutMs }, deadline);
  }

  /** A snapshot that others are made from. @throws argument.invalid for a name that is none */
  async takeSnapshot(id: string, name: string | undefined): Promise<SnapshotInfo> {
    const path = `/sandboxes/${encodeURIComponent(id)}/snapshots`;
    const deadline = Deadline.after(pauseMs, "taking the snapshot");
    const { text } = await this.#make(path, { name }, deadline);
    return parseSnapshot(parseJson(text, "answer"));
  }

  async snapshots(): Promise<readonly SnapshotInfo[]> {
    return parseList(await this.#get("/snapshots"), "snapshots").map(parseSnapshot);
  }

  /** By id or name. @throws template.missing */
  async removeSnapshot(reference: string): Promise<void> {
    const deadline = Deadline.after(removeMs, "removing the snapshot");
    await this.#send("DELETE", `/templates/${encodeURIComponent(reference)}`, undefined, deadline);
  }

  /** Keeps that many sandboxes of a snapshot ready. @throws template.missing */
  async setPool(reference: string, count: number): Promise<void> {
    const path = `/torpor/snapshots/${encodeURIComponent(reference)}/pool`;
    await this.#send("POST", path, { count }, Deadline.after(lookMs, "setting the pool"));
  }

  /** @throws sandbox.notFound */
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

  /** The key itself is in this answer and nowhere else. */
  async createApiKey(name: string): Promise<ApiKeyInfo & { readonly key: string }> {
    const deadline = Deadline.after(lookMs, "creating the key");
    const { text } = await this.#send("POST", "/torpor/api-keys", { name }, deadline);
    const body = parseObject(parseJson(text, "answer"), "key");
    const key = parseString(body["key"], "key");
    // COMPAT: the time of creation may be left out of this answer.
    return { ...parseApiKey({ createdAtMs: Date.now(), ...body }), key };
  }

  /** It lets nobody in from then on. @throws argument.invalid */
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

  /** Takes effect once, although it may be sent twice. @throws as `#send` */
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

  /** @throws daemon.unreachable when the line stays broken, deadline.exceeded */
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

/** Never, where nothing is said: the wire has a default that suits programs and not people. */
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

/** The socket is missing, nobody listens, or a path too long for one was given. */
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

/** Broken after the request was sent, so that nobody knows what became of it. */
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
