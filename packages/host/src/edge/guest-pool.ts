/**
 * Connections from the edge to the ports of one guest, kept open between requests if the guest's
 * server says for how long.
 *
 * A server that does not say so gets one connection for each request: many a small server serves
 * its connections one after the other, and would make every client wait until an idle one ends. The
 * edge stops using a connection a second before its time, so that no request meets a server that is
 * just closing it.
 */
import { performance } from "node:perf_hooks";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { GuestLink } from "@torpor/guest";
import { agentPort } from "@torpor/protocol";
import { Deadline, TorporError } from "@torpor/std";
import { GuestConnection } from "./guest-connection.ts";
import { GuestHttp2 } from "./guest-http2.ts";

/** LIMIT: idle connections to one guest, over all its ports. */
const idleMax = 64;
const connectBudgetMs = 30_000;
/** LIMIT: how long a server of HTTP/2 may take to send its settings, which servers do at once. */
const settingsBudgetMs = 10_000;
/** LIMIT: the same for a server that is only tried for HTTP/2. */
const trialBudgetMs = 1_000;
/** A server that has just been started may not listen yet; these are the waits between attempts. */
const refusedWaitsMs = [100, 200, 300, 400];

function noop(): void {
  // The caller that opened it has the error.
}

interface Idle {
  readonly connection: GuestConnection;
  readonly untilMonoMs: number;
}

/**
 * All connections to one guest. Disposing closes those that are idle, and every session of HTTP/2.
 */
export class GuestPool implements Disposable {
  readonly #link: Pick<GuestLink, "connect">;
  readonly #idle = new Map<number, Idle[]>();
  readonly #http2 = new Map<number, Promise<GuestHttp2>>();
  /**
   * The protocol that the server of a port was found to speak; another server may listen there next
   * time.
   */
  readonly spoken = new Map<number, "HTTP/1" | "HTTP/2">();
  #idleCount = 0;
  #isOver = false;

  constructor(link: Pick<GuestLink, "connect">) {
    this.#link = link;
  }

  /**
   * Takes a connection that carries nothing, kept or new.
   * @throws guest.portClosed, guest.unreachable
   */
  async take(port: number): Promise<GuestConnection> {
    const kept = this.#takeIdle(port);
    if (kept !== undefined) return kept;
    const socket = await this.#connect(port);
    return new GuestConnection(socket, (connection, idleMs) =>
      this.#keep(port, connection, idleMs),
    );
  }

  /** The one session of HTTP/2 to a port. @throws as `take`, and guest.refused */
  async takeHttp2(port: number): Promise<GuestHttp2> {
    const kept = this.#http2.get(port);
    const session = await kept;
    if (session?.isAlive === true) return session;
    if (this.#http2.get(port) === kept) this.#http2.delete(port);
    return await this.#openHttp2(port, settingsBudgetMs);
  }

  /**
   * Tries whether the server of a port speaks HTTP/2 only, and remembers the result. Never rejects.
   */
  async tryHttp2(port: number): Promise<boolean> {
    const [result] = await Promise.allSettled([this.#openHttp2(port, trialBudgetMs)]);
    const isOpen = result.status === "fulfilled";
    this.spoken.set(port, isOpen ? "HTTP/2" : "HTTP/1");
    return isOpen;
  }

  /** Closes the connections that carry nothing now. */
  closeIdle(): void {
    for (const idle of this.#idle.values()) for (const { connection } of idle) connection.destroy();
    this.#idle.clear();
    for (const opening of this.#http2.values()) void opening.then((open) => open.closeIdle(), noop);
    this.#idleCount = 0;
  }

  /** Closes what is idle; from now on nothing is kept. */
  [Symbol.dispose](): void {
    this.#isOver = true;
    this.closeIdle();
    for (const opening of this.#http2.values()) void opening.then((open) => open.destroy(), noop);
    this.#http2.clear();
  }

  /** Opens a session, once for all requests that wait. */
  #openHttp2(port: number, budgetMs: number): Promise<GuestHttp2> {
    const underWay = this.#http2.get(port);
    if (underWay !== undefined) return underWay;
    const opening = this.#dialHttp2(port, budgetMs);
    this.#http2.set(port, opening);
    opening.catch(() => {
      if (this.#http2.get(port) === opening) this.#http2.delete(port);
    });
    return opening;
  }

  async #dialHttp2(port: number, budgetMs: number): Promise<GuestHttp2> {
    const socket = await this.#connect(port);
    const deadline = Deadline.after(budgetMs, `HTTP/2 on port ${port} of the guest`);
    return await GuestHttp2.open(socket, deadline);
  }

  /** The connection that was used last is the likeliest to be alive. */
  #takeIdle(port: number): GuestConnection | undefined {
    const idle = this.#idle.get(port);
    for (;;) {
      const last = idle?.pop();
      if (last === undefined) return undefined;
      this.#idleCount -= 1;
      if (last.connection.isAlive && performance.now() < last.untilMonoMs) return last.connection;
      last.connection.destroy();
    }
  }

  #keep(port: number, connection: GuestConnection, idleMs: number): void {
    const idle = this.#idle.get(port) ?? [];
    if (this.#isOver || this.#idleCount >= idleMax) {
      connection.destroy();
      return;
    }
    idle.push({ connection, untilMonoMs: performance.now() + idleMs });
    this.#idle.set(port, idle);
    this.#idleCount += 1;
  }

  async #connect(port: number): Promise<Duplex> {
    const deadline = Deadline.after(connectBudgetMs, `connecting to port ${port} of the guest`);
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.#link.connect(port, deadline);
      } catch (cause) {
        const waitMs = refusedWaitsMs[attempt];
        if (waitMs === undefined || port === agentPort || !isPortClosed(cause)) throw cause;
        await sleep(waitMs);
      }
    }
  }
}

/** Whether no server listens on the port, although the guest itself answers. */
function isPortClosed(cause: unknown): boolean {
  return TorporError.is(cause) && cause.code === "guest.portClosed";
}
