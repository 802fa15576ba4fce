/**
 * Connections of the host to ports that listen on the guest's own loopback, through the agent's
 * port.
 *
 * The host asks by CONNECT (see `tunnelHost` of the protocol). Bytes pass both ways then, and the
 * end of either connection is the end of both. The connection tracker knows the one from the host,
 * so a restore destroys it, and with it the one to the user's server, which would otherwise survive
 * over loopback.
 *
 * SAFETY: a tunnel needs the host key, so that nobody uses the agent, which is root, to reach what
 * they could not reach themselves; and it leads to addresses of this guest only.
 */
import { once } from "node:events";
import type { IncomingMessage, Server } from "node:http";
import { type Socket, connect } from "node:net";
import { hostKeyHeader, tunnelHost } from "@torpor/protocol";
import type { Gate } from "./gate.ts";
import type { Identity } from "./identity.ts";

/** Tried in this order; a server that listens on all of them answers on the first. */
const addresses = ["127.0.0.1", "::1"];

/** The parts of the agent that decide whether a tunnel may open. */
export interface TunnelContext {
  readonly gate: Gate;
  readonly identity: Identity;
}

/**
 * Serves CONNECT requests. Disposing the result closes open tunnels, which closing the server would
 * wait for.
 */
export function serveTunnels(server: Server, context: TunnelContext): Disposable {
  // SNAPSHOT: may hold connections from before a restore; they leave when the tracker destroys
  // them.
  const carriers = new Set<Socket>();
  server.on("connect", (request, duplex, first) => {
    const socket = duplex as Socket; // what a TCP server hands out
    carriers.add(socket);
    socket.on("error", () => socket.destroy());
    socket.once("close", () => carriers.delete(socket));
    void serveTunnel(request, socket, first, context);
  });
  return {
    [Symbol.dispose]: () => {
      for (const socket of carriers) socket.destroy();
    },
  };
}

async function serveTunnel(
  request: IncomingMessage,
  outer: Socket,
  first: Buffer,
  { gate, identity }: TunnelContext,
): Promise<void> {
  const key = request.headers[hostKeyHeader];
  const isHost =
    identity.current.hostKey !== null &&
    identity.acceptsHostKey(typeof key === "string" ? key : undefined);
  if (!isHost) return refuse(outer, "401 Unauthorized");
  if (!gate.isOpen) return refuse(outer, "503 Service Unavailable");
  const port = portOf(request.url ?? "");
  if (port === undefined) return refuse(outer, "400 Bad Request");
  const inner = await open(port);
  if (inner === undefined) return refuse(outer, "502 Bad Gateway");
  outer.write("HTTP/1.1 200 OK\r\n\r\n");
  if (first.length > 0) outer.unshift(first);
  join(outer, inner);
}

function refuse(socket: Socket, status: string): void {
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
}

function portOf(authority: string): number | undefined {
  const [host, text = ""] = authority.split(":");
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  return host === tunnelHost && port > 0 && port <= 65_535 ? port : undefined;
}

/** Undefined when no server listens. */
async function open(port: number): Promise<Socket | undefined> {
  for (const host of addresses) {
    const socket = connect({ host, port, allowHalfOpen: true, noDelay: true });
    try {
      await once(socket, "connect");
      return socket;
    } catch {
      socket.destroy(); // nobody listens on this address, or there is no such address
    }
  }
  return undefined;
}

function join(outer: Socket, inner: Socket): void {
  inner.on("error", () => inner.destroy());
  inner.once("close", () => outer.destroySoon());
  outer.once("close", () => inner.destroy());
  if (outer.destroyed) inner.destroy();
  outer.pipe(inner);
  inner.pipe(outer);
}
