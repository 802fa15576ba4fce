/**
 * Turns what a Node HTTP server does into calls on `Connection`, without changing what it does.
 *
 *   what happened                    seen through
 *   a socket was accepted            "connection", before Node's own listener; or "drop"
 *   its TLS handshake is done        "secureConnection", before Node's own listener
 *   an HTTP/2 session began          "session"
 *   HTTP/1 request headers arrived   the diagnostics channel `http.server.request.start`
 *   101 or CONNECT                   "upgrade" and "connect"; see upgrade-watch.ts
 *
 * The channel and not the "request" event: a "request" listener would run after those put in front
 * of it, would switch on the compatibility API of an HTTP/2 server, and would miss the requests Node
 * answers itself or hands to "checkContinue". Should the channel ever fall silent, connections count
 * as `new` and are closed early; none of them is lost, since all are tracked from "connection" on.
 *
 * A connection is found again by a symbol on its sockets and not by a map of them: Node hands out
 * proxies for the sockets of HTTP/2, and those pass properties through but are different objects.
 */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import type { EventEmitter } from "node:events";
import type { ServerResponse } from "node:http";
import type { ServerHttp2Session } from "node:http2";
import type { Server, Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import type { Connection } from "./connection.ts";
import { watchUpgrades } from "./upgrade-watch.ts";

/**
 * A server of `node:http`, `node:https` or `node:http2`, with whatever request and response classes.
 * They have `setTimeout` in common, and plain `net` and `tls` servers do not have it.
 */
export type TrackableServer = Server & { setTimeout(timeoutMs?: number): unknown };

const requestStart = "http.server.request.start";

interface RequestStart {
  readonly socket: Socket;
  readonly response: ServerResponse;
}

type Tagged = { [tag: symbol]: Connection | undefined };

/** Told of what the server takes from the kernel. */
export interface Intake {
  /** Makes the connection of a socket that was just accepted. */
  accept(socket: Socket): Connection;
  /** Node has accepted one more than `server.maxConnections`, and closed it. */
  onRefused(): void;
}

export class ServerWatch {
  readonly #server: EventEmitter;
  readonly #intake: Intake;
  readonly #stopUpgrades: () => void;
  readonly #tag = Symbol("torpor.connection");

  constructor(server: TrackableServer, intake: Intake) {
    this.#server = server;
    this.#intake = intake;
    // ORDER: before Node's own listeners, so that what they announce has a connection to belong to.
    this.#server.prependListener("connection", this.#onConnection);
    this.#server.prependListener("secureConnection", this.#onSecured);
    this.#server.prependListener("session", this.#onSession);
    this.#server.on("drop", this.#onDrop);
    subscribe(requestStart, this.#onRequest);
    this.#stopUpgrades = watchUpgrades(server, (socket) => this.find(socket)?.upgrade());
  }

  /** The connection of a socket, a TLS socket, or one of the proxies HTTP/2 hands out for them. */
  find(socket: Socket): Connection | undefined {
    try {
      return (socket as unknown as Tagged)[this.#tag];
    } catch {
      // The proxy of an HTTP/2 session that is gone throws ERR_HTTP2_SOCKET_UNBOUND.
      return undefined;
    }
  }

  /** Removes every listener from the server. Safe to repeat. */
  stop(): void {
    this.#server.off("connection", this.#onConnection);
    this.#server.off("secureConnection", this.#onSecured);
    this.#server.off("session", this.#onSession);
    this.#server.off("drop", this.#onDrop);
    unsubscribe(requestStart, this.#onRequest);
    this.#stopUpgrades();
  }

  readonly #onConnection = (socket: Socket): void => {
    // Proxies hand the socket of a CONNECT back to the server to read requests from it.
    if (this.find(socket) !== undefined) return;
    this.#setTag(socket, this.#intake.accept(socket));
  };

  readonly #onDrop = (): void => this.#intake.onRefused();

  readonly #onSecured = (secured: TLSSocket): void => {
    // `_parent` is not documented, and nothing documented names the socket under a TLSSocket. Without
    // it the connection would count twice, but still be tracked and closed.
    const { _parent: accepted } = secured as { _parent?: Socket };
    const known = accepted === undefined ? undefined : this.find(accepted);
    const connection = known ?? this.#intake.accept(secured);
    connection.secure(secured);
    this.#setTag(secured, connection);
  };

  readonly #onSession = (session: ServerHttp2Session): void => {
    this.find(session.socket)?.startSession(session);
  };

  /** The channel carries the requests of every server in the process; only ours have the tag. */
  readonly #onRequest = (message: unknown): void => {
    const { socket, response } = message as RequestStart;
    this.find(socket)?.startResponse(response);
  };

  #setTag(socket: Socket, connection: Connection): void {
    Object.defineProperty(socket, this.#tag, { value: connection, configurable: true });
  }
}
