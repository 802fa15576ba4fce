/**
 * Connections from the edge to the ports of one guest, kept open between requests where the guest's
 * server says for how long.
 *
 * A server that does not say so gets one connection for each request: many a small one serves its
 * connections one after the other, and would let everybody wait for an idle one to end. A connection
 * is taken out a second before its time, so that no request meets a server that is just hanging up.
 */
import { performance } from "node:perf_hooks";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { GuestLink } from "@torpor/guest";
import { agentPort } from "@torpor/protocol";
import { Deadline, TorporError } from "@torpor/std";
import { GuestConnection } from "./guest-connection.ts";

/** LIMIT: of idle connections to one port. */
const idleMax = 64;
const connectBudgetMs = 30_000;
/** A server that was started a moment ago may not listen yet. */
const refusedWaitsMs = [100, 200, 300, 400];

interface Idle {
  readonly connection: GuestConnection;
  readonly untilMonoMs: number;
}

export class GuestPool implements Disposable {
  readonly #link: Pick<GuestLink, "connect">;
  readonly #idle = new Map<number, Idle[]>();
  #isOver = false;

  constructor(link: Pick<GuestLink, "connect">) {
    this.#link = link;
  }

  /** A connection that carries nothing, kept or new. @throws guest.portClosed, guest.unreachable */
  async take(port: number): Promise<GuestConnection> {
    const kept = this.#takeIdle(port);
    if (kept !== undefined) return kept;
    const socket = await this.#connect(port);
    return new GuestConnection(socket, (connection, idleMs) =>
      this.#keep(port, connection, idleMs),
    );
  }

  closeIdle(): void {
    for (const idle of this.#idle.values()) for (const { connection } of idle) connection.destroy();
    this.#idle.clear();
  }

  /** Nothing is kept from now on. */
  [Symbol.dispose](): void {
    this.#isOver = true;
    this.closeIdle();
  }

  /** The one that was used last is the likeliest to be alive. */
  #takeIdle(port: number): GuestConnection | undefined {
    const idle = this.#idle.get(port);
    for (;;) {
      const last = idle?.pop();
      if (last === undefined) return undefined;
      if (last.connection.isAlive && performance.now() < last.untilMonoMs) return last.connection;
      last.connection.destroy();
    }
  }

  #keep(port: number, connection: GuestConnection, idleMs: number): void {
    const idle = this.#idle.get(port) ?? [];
    if (this.#isOver || idle.length >= idleMax) {
      connection.destroy();
      return;
    }
    idle.push({ connection, untilMonoMs: performance.now() + idleMs });
    this.#idle.set(port, idle);
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

/** Nobody listens on the port, while the guest itself answers. */
function isPortClosed(cause: unknown): boolean {
  return TorporError.is(cause) && cause.code === "guest.portClosed";
}
