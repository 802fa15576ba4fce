/**
 * Connections from the edge to the ports of one guest, kept open between requests where the guest's
 * server says for how long.
 *
 * A server that does not say so gets one connection for each request: many a small one serves its
 * connections one after the other, and would let everybody wait for an idle one to end. A connection
 * is taken out a second before its time, so that no request meets a server that is just hanging up.
 */
import { Agent, type ClientRequest, type ClientRequestArgs, type IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import type { GuestLink } from "@torpor/guest";
import { agentPort } from "@torpor/protocol";
import { Deadline, TorporError } from "@torpor/std";

/** LIMIT: of idle connections to one port. */
const idleMax = 64;
const connectBudgetMs = 30_000;
/** A server that was started a moment ago may not listen yet. */
const refusedWaitsMs = [100, 200, 300, 400];

/** As Node calls it back; its types know no failure. */
type Opened = (error: unknown, socket?: Duplex) => void;

export class GuestPool extends Agent {
  readonly #link: Pick<GuestLink, "connect">;

  constructor(link: Pick<GuestLink, "connect">) {
    super({ keepAlive: true, maxFreeSockets: idleMax });
    this.#link = link;
  }

  closeIdle(): void {
    for (const sockets of Object.values(this.freeSockets)) {
      for (const socket of sockets ?? []) socket.destroy();
    }
  }

  override createConnection(
    { port }: ClientRequestArgs,
    callback?: (error: Error | null, stream: Duplex) => void,
  ): undefined {
    void this.#open(Number(port), callback as Opened | undefined);
  }

  /** Asked when a request is over and its connection could serve another. */
  override keepSocketAlive(socket: Duplex): boolean {
    if (!announcesKeepAlive(socket)) return false;
    return super.keepSocketAlive(socket) as unknown as boolean;
  }

  async #open(port: number, onOpened: Opened | undefined): Promise<void> {
    const [result] = await Promise.allSettled([this.#connect(port)]);
    if (result.status === "fulfilled") onOpened?.(null, result.value);
    else onOpened?.(result.reason);
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

/** `_httpMessage` is how Node's own agent finds the answer that was just read. */
function announcesKeepAlive(socket: Duplex): boolean {
  const { _httpMessage: message } = socket as Duplex & {
    _httpMessage?: ClientRequest & { res?: IncomingMessage };
  };
  return message?.res?.headers["keep-alive"] !== undefined;
}
