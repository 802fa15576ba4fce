/**
 * The host's end of a tunnel through the agent, to a port that only the guest itself can reach. See
 * `tunnelHost` of the protocol; tunnel.ts of the agent is the other end.
 */
import { type IncomingMessage, request } from "node:http";
import type { Socket } from "node:net";
import { hostKeyHeader, tunnelHost } from "@torpor/protocol";
import { type Deadline, TorporError } from "@torpor/std";

/** Where a tunnel leads, and what authorises it. */
export interface TunnelOptions {
  readonly port: number;
  readonly hostKey: string;
}

/**
 * Turns a connection to the agent into one to a port of the guest. Destroys the connection on
 * failure.
 * @throws guest.portClosed, guest.refused, guest.unreachable, deadline.exceeded
 */
export async function openTunnel(
  carrier: Socket,
  { port, hostKey }: TunnelOptions,
  deadline: Deadline,
): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const outgoing = request({
    createConnection: () => carrier,
    method: "CONNECT",
    path: `${tunnelHost}:${port}`,
    headers: { host: tunnelHost, [hostKeyHeader]: hostKey },
  });
  outgoing.on("connect", (answer, _socket, first) => {
    if (first.length > 0) carrier.unshift(first);
    resolve(answer);
  });
  outgoing.on("error", reject);
  outgoing.once("close", () =>
    reject(new TorporError("guest.unreachable", "the guest closed without an answer")),
  );
  outgoing.end();
  try {
    const { statusCode = 0 } = await deadline.race(promise);
    if (statusCode === 200) return carrier;
    if (statusCode === 502) {
      throw new TorporError("guest.portClosed", `nobody listens on port ${port} of the guest`);
    }
    throw new TorporError("guest.refused", `the agent answered a tunnel with ${statusCode}`);
  } catch (cause) {
    carrier.destroy();
    throw TorporError.from(cause, "guest.unreachable", `a tunnel to port ${port}`);
  }
}
