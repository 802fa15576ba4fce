/**
 * One accepted connection: its sockets, its state, and the generation it belongs to.
 *
 *              request                    answered
 *     new ──────────────────► active ◄──────────────► idle
 *      │                        │       request         │
 *      ├────────────────────────┴───────────────────────┤ 101 or CONNECT
 *      │                                                ▼
 *      └──────────► closed ◄──────────────────────── upgraded        (every state can close)
 *
 * An upgraded socket that a proxy hands back to its server (`server.emit("connection", socket)`) is
 * the same connection, and active again with the next request.
 *
 * A request counts from the moment its headers are complete: half a first request leaves the
 * connection `new`, half a later one leaves it `idle`. Over TLS there are two sockets, the one the
 * kernel accepted and the `TLSSocket` around it; they are one connection, tracked from before the
 * handshake.
 *
 * INVARIANT: every socket of a connection has an "error" listener. A host that tears down dead
 * connections makes sockets fail with ECONNABORTED, and a failed socket without a listener ends the
 * process.
 */
import type { ServerResponse } from "node:http";
import type { ServerHttp2Session } from "node:http2";
import type { Socket } from "node:net";
import { performance } from "node:perf_hooks";
import type { TLSSocket } from "node:tls";
import type { Closings, Manner } from "./closings.ts";
import { type Exchanges, Http1Exchanges, Http2Exchanges } from "./exchanges.ts";

/**
 * See the drawing in connection.ts. A connection is `closed` from the moment nothing more is answered
 * on it, which can be shortly before its socket is gone.
 */
export type ConnectionState = "new" | "active" | "idle" | "upgraded" | "closed";

export interface ConnectionInfo {
  readonly state: ConnectionState;
  /** The restore this connection belongs to; see `ServerConnTracker`. */
  readonly generation: number;
  /**
   * Milliseconds since it was accepted, on the monotonic clock. That clock stands still while a
   * machine is frozen.
   */
  readonly ageMs: number;
  /** Whether the server speaks TLS on it; true during the handshake too. */
  readonly encrypted: boolean;
  /** "address:port" of the peer, "[address]:port" for IPv6; undefined when it has none. */
  readonly remote: string | undefined;
}

export interface ConnectionOptions {
  readonly generation: number;
  readonly encrypted: boolean;
  /** Where its socket is closed. */
  readonly closings: Closings;
  /** Whether every answer on this connection is to be its last. */
  isDraining(connection: Connection): boolean;
  /** Called once, when the socket has emitted "close". */
  onGone(connection: Connection): void;
}

export class Connection {
  /** Set by the tracker, which knows the rules. */
  generation: number;
  readonly #transport: Socket;
  readonly #options: ConnectionOptions;
  readonly #acceptedMonoMs = performance.now();
  readonly #onTransportClose = (): void => this.#onGone();
  #secured: TLSSocket | undefined;
  #exchanges: Exchanges;
  #state: ConnectionState = "new";

  /** `transport` is the socket as it was accepted, before any handshake. */
  constructor(transport: Socket, options: ConnectionOptions) {
    this.#transport = transport;
    this.#options = options;
    this.generation = options.generation;
    this.#exchanges = this.#speakHttp1(transport);
    transport.on("error", ignoreError);
    transport.once("close", this.#onTransportClose);
  }

  get state(): ConnectionState {
    return this.#transport.destroyed ? "closed" : this.#state;
  }

  info(): ConnectionInfo {
    return {
      state: this.state,
      generation: this.generation,
      ageMs: performance.now() - this.#acceptedMonoMs,
      encrypted: this.#options.encrypted,
      remote: remoteOf(this.#transport),
    };
  }

  /** The handshake is done: from now on requests arrive on `secured`. */
  secure(secured: TLSSocket): void {
    secured.on("error", ignoreError);
    this.#secured = secured;
    this.#exchanges = this.#speakHttp1(secured);
  }

  /** The peer speaks HTTP/2. */
  startSession(session: ServerHttp2Session): void {
    this.#exchanges = new Http2Exchanges(session, this.#socket, {
      ...this.#exchangesOwner(),
      onStream: () => this.#enter("active"),
    });
  }

  /** The headers of an HTTP/1 request are complete, and `response` will answer it. */
  startResponse(response: ServerResponse): void {
    if (!(this.#exchanges instanceof Http1Exchanges)) return;
    this.#exchanges.add(response);
    this.#enter("active");
  }

  /** HTTP is over on this socket. On an HTTP/2 session it is over for one stream only. */
  upgrade(): void {
    if (this.#exchanges instanceof Http1Exchanges) this.#enter("upgraded");
  }

  /** Lets the exchanges in flight finish and tells the peer, where possible, that they are the last. */
  finish(): void {
    if (this.#state === "active") this.#exchanges.announceEnd();
  }

  /** Takes back what `finish` announced and the peer has not been told yet. */
  carryOn(): void {
    this.#exchanges.withdrawEnd();
  }

  /**
   * Closes a connection with nothing in flight: an HTTP/1 socket before this call returns, an HTTP/2
   * session as soon as GOAWAY is written. The peer reads an orderly end.
   */
  hangUp(): void {
    this.#enter("closed");
    if (!this.#exchanges.sayGoodbye()) this.#destroy("close");
  }

  /**
   * Destroys the socket before this call returns, and has it reset: what was written and not
   * acknowledged is not sent again. Safe to repeat.
   */
  destroy(): void {
    this.#enter("closed");
    this.#destroy("reset");
    this.#exchanges.abandon();
  }

  /** Removes every listener of this package from the sockets and what they carry. */
  release(): void {
    this.#exchanges.release();
    this.#transport.off("error", ignoreError);
    this.#transport.off("close", this.#onTransportClose);
    this.#secured?.off("error", ignoreError);
  }

  #destroy(manner: Manner): void {
    this.#options.closings.defer(this.#transport, this.#socket, manner);
    this.#socket.destroy();
  }

  /** The socket that carries HTTP. Destroying it destroys the one below it too. */
  get #socket(): Socket {
    return this.#secured ?? this.#transport;
  }

  #speakHttp1(socket: Socket): Http1Exchanges {
    return new Http1Exchanges(socket, this.#exchangesOwner());
  }

  #exchangesOwner(): { isDraining(): boolean; onQuiet(): void } {
    return { isDraining: () => this.#options.isDraining(this), onQuiet: () => this.#onQuiet() };
  }

  #onQuiet(): void {
    if (this.#state !== "active") return;
    this.#enter("idle");
    if (this.#options.isDraining(this)) this.#exchanges.end();
  }

  #onGone(): void {
    this.#enter("closed");
    this.#options.onGone(this);
  }

  /** The only place the state is assigned: `closed` is final. */
  #enter(next: ConnectionState): void {
    if (this.#state !== "closed") this.#state = next;
  }
}

/** A tracked socket that fails also emits "close", which is all the tracker needs to know. */
function ignoreError(): void {
  return;
}

function remoteOf(socket: Socket): string | undefined {
  const { remoteAddress, remotePort } = socket;
  if (remoteAddress === undefined || remotePort === undefined) return undefined;
  return remoteAddress.includes(":")
    ? `[${remoteAddress}]:${remotePort}`
    : `${remoteAddress}:${remotePort}`;
}
