/**
 * The host's connections to one guest agent, for one run of its VM.
 *
 * A link belongs to a generation: the daemon makes it when the VM starts, and destroys it, with
 * every connection it ever opened, when the run ends. A checkpoint keeps it, because the run
 * continues. A connection must never be used across a restore: the restore rewinds the guest's half
 * and not the host's, so a writer on it waits minutes for nothing.
 *
 * The host's own calls share a small keep-alive pool; connections on behalf of users are opened one
 * by one with `connect` and tracked, so that they can be cut too.
 */
import { once } from "node:events";
import { Agent, type IncomingMessage, request } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import {
  type CancelResponse,
  type InitRequest,
  type InitResponse,
  type PrepareReason,
  type PrepareRequest,
  type PrepareResponse,
  agentPort,
  cancelRoute,
  healthRoute,
  accessTokenHeader,
  hostKeyHeader,
  initRoute,
  monotonicHeader,
  parseCancelResponse,
  parseInitResponse,
  parsePrepareResponse,
  prepareRoute,
} from "@torpor/protocol";
import { type Deadline, TorporError, parseJson, systemCode } from "@torpor/std";
import { type GuestSample, parseSample } from "./sample.ts";
import { openTunnel } from "./tunnel.ts";

/** LIMIT: a hostile guest may answer with anything; our own answers are under 1 KiB. */
const answerBytesMax = 64 * 1024;
const readyRetryMs = 10;
const metricsRoute = "/metrics";
/**
 * A connection attempt that the guest's kernel has not answered by now is abandoned and retried.
 */
const readyAttemptMs = 1_000;
/**
 * Requests that read the clock. A reading is wrong by at most half of the shortest round trip. The
 * first few try for a close reading; on a busy host, some more try for one that is close enough for
 * what we promise of the clock.
 */
const closeClock = { questions: 4, tripMs: 10 };
const usableClock = { questions: 20, tripMs: 50 };

/** How to reach one run of a guest. */
export interface GuestLinkOptions {
  /** Opens a connection to a port of the guest. */
  readonly dial: (port: number) => Socket;
  /** Authorises private calls; replaced after an init that installed another. */
  readonly hostKey: string;
}

/** The same instant on two clocks. */
export interface ClockReading {
  /** Wall clock of the host, milliseconds since 1970. */
  readonly timestampMs: number;
  /** Monotonic clock of the guest; undefined when its agent does not tell it. */
  readonly timestampMonoMs: number | undefined;
}

/**
 * The connections to one run of a guest, and the calls on its agent. Disposing destroys them all.
 */
export class GuestLink implements Disposable {
  readonly #dial: (port: number) => Socket;
  readonly #sockets = new Set<Socket>();
  readonly #agent: Agent;
  #hostKey: string;
  #destroyed = false;

  constructor(options: GuestLinkOptions) {
    this.#dial = options.dial;
    this.#hostKey = options.hostKey;
    this.#agent = new DialingAgent(() => this.dial(agentPort));
  }

  /** The pool for calls to the agent, for use as the `agent` of Node's HTTP client. */
  get agent(): Agent {
    return this.#agent;
  }

  /** Number of connections to the guest that are open now, of any kind. */
  get openConnections(): number {
    return this.#sockets.size;
  }

  /** Opens a tracked connection to a port of the guest. @throws guest.unreachable once disposed. */
  dial(port: number): Socket {
    if (this.#destroyed) {
      throw new TorporError("guest.unreachable", "this run of the guest is over", {
        effect: "none",
      });
    }
    // The second half of a request would wait for the guest to acknowledge the first, 40 ms long.
    const socket = this.#dial(port).setNoDelay(true);
    this.#sockets.add(socket);
    socket.on("error", () => socket.destroy());
    socket.once("close", () => this.#sockets.delete(socket));
    return socket;
  }

  /**
   * Opens a connection to a port of the guest and waits until it is open. If the port is out of
   * reach from here, because its server listens on the guest's own loopback or because this network
   * leads to the agent only, the connection goes through the agent.
   * @throws guest.portClosed when nobody listens there; guest.unreachable, deadline.exceeded
   */
  async connect(port: number, deadline: Deadline): Promise<Socket> {
    try {
      const socket = this.dial(port);
      await untilOpen(socket, deadline);
      return socket;
    } catch (cause) {
      if (!isOutOfReach(cause)) throw TorporError.from(cause, "guest.unreachable");
      if (port === agentPort) {
        throw new TorporError("guest.portClosed", "the guest's agent does not listen", { cause });
      }
    }
    const carrier = this.dial(agentPort);
    return await openTunnel(carrier, { port, hostKey: this.#hostKey }, deadline);
  }

  /**
   * Waits until the agent answers its health check.
   * @throws guest.unreachable, also once disposed
   */
  async waitUntilReady(deadline: Deadline): Promise<void> {
    for (;;) {
      try {
        const attempt = deadline.sub(readyAttemptMs, "guest health check");
        await this.#call("GET", healthRoute, undefined, attempt);
        return;
      } catch (cause) {
        if (deadline.expired || this.#destroyed) {
          throw new TorporError("guest.unreachable", "the guest's agent did not answer in time", {
            cause,
          });
        }
        await deadline.sleep(readyRetryMs);
      }
    }
  }

  /**
   * Reads the guest's monotonic clock. The reading belongs to the middle of the shortest round
   * trip, so it is wrong by at most half of that trip.
   * @throws guest.unreachable, deadline.exceeded
   */
  async readClock(deadline: Deadline): Promise<ClockReading> {
    let best: ClockReading = { timestampMs: Date.now(), timestampMonoMs: undefined };
    let bestTripMs = Infinity;
    for (let asked = 0; asked < usableClock.questions; asked += 1) {
      const { tripMs: enoughMs } = asked < closeClock.questions ? closeClock : usableClock;
      if (bestTripMs <= enoughMs) break;
      const sentMs = performance.now();
      const response = await this.#exchange("GET", healthRoute, undefined, deadline);
      const tripMs = performance.now() - sentMs;
      const timestampMs = Math.round(Date.now() - tripMs / 2);
      await named(readAnswer(response, healthRoute), healthRoute, deadline);
      const timestampMonoMs = parseMonotonic(response.headers[monotonicHeader]);
      if (timestampMonoMs === undefined) return { timestampMs: Date.now(), timestampMonoMs };
      if (tripMs < bestTripMs) best = { timestampMs, timestampMonoMs };
      bestTripMs = Math.min(tripMs, bestTripMs);
    }
    return best;
  }

  /** Makes the guest right again after a start or a restore; user processes run from here on. */
  async init(body: InitRequest, deadline: Deadline): Promise<InitResponse> {
    const answer = parseInitResponse(await this.#call("POST", initRoute, body, deadline));
    this.#hostKey = body.hostKey;
    return answer;
  }

  /** Quiesces the guest for a snapshot. Only `cancel` or a restore may follow. */
  async prepare(reason: PrepareReason, deadline: Deadline): Promise<PrepareResponse> {
    const body: PrepareRequest = { reason };
    return parsePrepareResponse(await this.#call("POST", prepareRoute, body, deadline));
  }

  /** Undoes `prepare`: the guest continues as the sandbox it is. */
  async cancel(deadline: Deadline): Promise<CancelResponse> {
    return parseCancelResponse(await this.#call("POST", cancelRoute, {}, deadline));
  }

  /** Reads what the guest uses. @param accessToken Null when the agent asks clients for none. */
  async metrics(accessToken: string | null, deadline: Deadline): Promise<GuestSample> {
    const headers = accessToken === null ? {} : { [accessTokenHeader]: accessToken };
    const answer = await this.#call("GET", metricsRoute, undefined, deadline, headers);
    return parseSample(answer, Date.now());
  }

  /** Closes the connections that carry no request right now. */
  closeIdle(): void {
    for (const sockets of Object.values(this.#agent.freeSockets)) {
      for (const socket of sockets ?? []) socket.destroy();
    }
  }

  /** Destroys every connection to this run of the guest. Later calls fail. */
  [Symbol.dispose](): void {
    this.#destroyed = true;
    this.#agent.destroy();
    for (const socket of this.#sockets) socket.destroy();
  }

  async #call(
    method: "GET" | "POST",
    path: string,
    body: unknown,
    deadline: Deadline,
    more: Readonly<Record<string, string>> = {},
  ): Promise<unknown> {
    const response = await this.#exchange(method, path, body, deadline, more);
    return await named(readAnswer(response, path), path, deadline);
  }

  async #exchange(
    method: "GET" | "POST",
    path: string,
    body: unknown,
    deadline: Deadline,
    more: Readonly<Record<string, string>> = {},
  ): Promise<IncomingMessage> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const outgoing = request({
      agent: this.#agent,
      method,
      path,
      host: "guest",
      port: agentPort,
      signal: deadline.signal,
      headers: {
        [hostKeyHeader]: this.#hostKey,
        ...more,
        ...(payload === undefined
          ? {}
          : { "content-type": "application/json", "content-length": Buffer.byteLength(payload) }),
      },
    });
    outgoing.on("response", resolve);
    outgoing.on("error", reject);
    // An answer that changes protocols, which no honest agent gives, has no other event than this.
    outgoing.once("close", () => reject(closedWithoutAnswer()));
    outgoing.end(payload);
    return await named(promise, path, deadline);
  }
}

/** Adds to an error which call failed. */
async function named<T>(work: Promise<T>, path: string, deadline: Deadline): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    if (deadline.expired) throw deadline.error(cause);
    throw TorporError.from(cause, "guest.unreachable", `calling ${path}`);
  }
}

/** Whole milliseconds; undefined for a value that no agent sends. */
function parseMonotonic(value: string | readonly string[] | undefined): number | undefined {
  const ms = typeof value === "string" ? Math.round(Number(value)) : NaN;
  return Number.isSafeInteger(ms) && ms >= 0 ? ms : undefined;
}

/** Waits until the socket is connected. Destroys it if it cannot connect. */
async function untilOpen(socket: Socket, deadline: Deadline): Promise<void> {
  try {
    await deadline.race(once(socket, "connect"));
  } catch (cause) {
    socket.destroy();
    throw cause;
  }
}

function isOutOfReach(cause: unknown): boolean {
  if (TorporError.is(cause)) return cause.code === "network.failed";
  return systemCode(cause) === "ECONNREFUSED";
}

/** Node's keep-alive pool over connections that `dial` opens. */
class DialingAgent extends Agent {
  readonly #open: () => Socket;

  constructor(open: () => Socket) {
    super({ keepAlive: true, maxFreeSockets: 4 });
    this.#open = open;
  }

  override createConnection(): Duplex {
    return this.#open();
  }
}

function closedWithoutAnswer(): TorporError {
  return new TorporError("guest.unreachable", "the guest closed the connection without an answer");
}

async function readAnswer(response: IncomingMessage, path: string): Promise<unknown> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > answerBytesMax) throw new TorporError("guest.refused", `${path}: answer too long`);
    chunks.push(chunk);
  }
  const text = Buffer.concat(chunks).toString("utf8");
  const status = response.statusCode ?? 0;
  if (status >= 400) {
    throw new TorporError("guest.refused", `the agent answered ${path} with ${status}: ${text}`);
  }
  return text === "" ? undefined : parseJson(text, `answer of ${path}`);
}
