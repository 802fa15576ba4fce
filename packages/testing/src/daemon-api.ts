/**
 * A small client of the daemon's API over its Unix socket. Every call has a deadline and a
 * connection of its own.
 */
import { type IncomingHttpHeaders, type IncomingMessage, request } from "node:http";
import { Deadline, TorporError, parseJson, parseObject } from "@torpor/std";

/** LIMIT: far above what any call takes, also on a machine that is busy with other tests. */
const callMs = 120_000;

/** An answer of the daemon, whatever its status. */
export interface ApiAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
}

/** The fields of `GET /torpor/sandboxes/ID` that tests read. */
export interface SandboxInfo {
  readonly id: string;
  readonly state: string;
  readonly reason: string | null;
  readonly generation: number;
  readonly pid: number | null;
  readonly lastLines: readonly string[];
  readonly endAtMs: number | null;
  readonly missedDeadline: { readonly message: string } | null;
  readonly hasPrevious: boolean;
  readonly snapshot: {
    readonly id: string;
    readonly generation: number;
    readonly memoryBytes: number;
    readonly memoryLayers: number;
    readonly diskBytes: number;
    readonly diskLayers: number;
  } | null;
}

/** Calls the daemon on one socket. */
export class DaemonApi {
  readonly socketPath: string;

  constructor(socketPath: string) {
    this.socketPath = socketPath;
  }

  /**
   * Sends any request and returns the answer, whatever its status. @throws system error,
   * deadline.exceeded
   */
  async exchange(
    method: string,
    path: string,
    body?: object,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<ApiAnswer> {
    const deadline = Deadline.after(callMs, `${method} ${path}`);
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const outgoing = request({
      socketPath: this.socketPath,
      agent: false,
      method,
      path,
      signal: deadline.signal,
      headers: {
        ...(payload === undefined ? {} : { "content-type": "application/json" }),
        ...headers,
      },
    });
    outgoing.on("response", resolve);
    outgoing.on("error", reject);
    outgoing.end(payload);
    const response = await promise;
    let text = "";
    response.setEncoding("utf8");
    for await (const chunk of response) text += String(chunk);
    return { status: response.statusCode ?? 0, headers: response.headers, text };
  }

  /**
   * Sends a request that must succeed. @throws the error of the answer's body when its status is
   * 400 or more
   */
  async call(method: string, path: string, body?: object): Promise<ApiAnswer> {
    const answer = await this.exchange(method, path, body);
    if (answer.status < 400) return answer;
    throw TorporError.fromBody(parseObject(parseJson(answer.text, "answer"), "answer"));
  }

  async list(): Promise<readonly SandboxInfo[]> {
    return parseJson((await this.call("GET", "/torpor/sandboxes")).text, "list") as SandboxInfo[];
  }
}
