/**
 * What is being answered on one connection, and how its protocol says "no more after this".
 *
 * An exchange is a request with its answer: a `ServerResponse` in HTTP/1, a stream in HTTP/2. It is
 * pending from the moment Node has parsed the request's headers until the answer is with the kernel
 * (or the peer is gone). The two protocols differ only in how the end is announced:
 *
 *            announce                              when too late to announce
 *   HTTP/1   `Connection: close` in the newest     the socket is ended after the last answer
 *   HTTP/2   GOAWAY; streams in flight finish      never too late
 *
 * Nothing here throws: a response or a session that is already gone is left as it is.
 */
import type { EventEmitter } from "node:events";
import type { ServerResponse } from "node:http";
import type { ServerHttp2Session, ServerHttp2Stream } from "node:http2";
import type { Socket } from "node:net";

export interface Exchanges {
  readonly pendingCount: number;
  /** Tells the peer that the pending exchanges are the last. Safe to repeat. */
  announceEnd(): void;
  /** Takes the announcement back where it has not been sent yet. */
  withdrawEnd(): void;
  /** Ends the connection, with nothing pending, once everything answered has been sent. */
  end(): void;
  /**
   * Announces the end and closes the connection behind it, with nothing pending. False when the
   * protocol has no words for that now: the caller destroys the socket.
   */
  sayGoodbye(): boolean;
  /** Ends what the protocol still holds, after the socket was destroyed. */
  abandon(): void;
  /** Stops listening to the pending exchanges. */
  release(): void;
}

/** The two facts an `Exchanges` needs from the connection it belongs to. */
export interface ExchangesOwner {
  /** Whether every answer is to be the last of its connection. */
  isDraining(): boolean;
  /** The last pending exchange is over. */
  onQuiet(): void;
}

export interface Http2ExchangesOwner extends ExchangesOwner {
  /** The peer has opened a stream. */
  onStream(): void;
}

/** The emitters that have not emitted "close" yet, in the order they were added. */
class Pending<T extends EventEmitter> {
  readonly #listeners = new Map<T, () => void>();

  get size(): number {
    return this.#listeners.size;
  }

  get newest(): T | undefined {
    return [...this.#listeners.keys()].at(-1);
  }

  add(item: T, onNoneLeft: () => void): void {
    const onClose = (): void => {
      this.#listeners.delete(item);
      if (this.#listeners.size === 0) onNoneLeft();
    };
    this.#listeners.set(item, onClose);
    item.once("close", onClose);
  }

  clear(): void {
    for (const [item, onClose] of this.#listeners) item.off("close", onClose);
    this.#listeners.clear();
  }
}

interface Announcement {
  readonly response: ServerResponse;
  /** What Node had decided for this response from the request's version and headers. */
  readonly keepAlive: boolean;
}

export class Http1Exchanges implements Exchanges {
  readonly #socket: Socket;
  readonly #owner: ExchangesOwner;
  readonly #pending = new Pending<ServerResponse>();
  #announcement: Announcement | undefined;

  constructor(socket: Socket, owner: ExchangesOwner) {
    this.#socket = socket;
    this.#owner = owner;
  }

  get pendingCount(): number {
    return this.#pending.size;
  }

  add(response: ServerResponse): void {
    this.#pending.add(response, () => this.#owner.onQuiet());
    if (this.#owner.isDraining()) this.announceEnd();
  }

  /**
   * Only the newest of several pipelined responses says it: Node drops everything behind a response
   * with `Connection: close`, although the handlers of those requests are already running.
   */
  announceEnd(): void {
    this.withdrawEnd();
    const response = this.#pending.newest;
    if (response === undefined || response.headersSent) return;
    this.#announcement = { response, keepAlive: response.shouldKeepAlive };
    response.shouldKeepAlive = false;
  }

  withdrawEnd(): void {
    const announcement = this.#announcement;
    this.#announcement = undefined;
    if (announcement === undefined || announcement.response.headersSent) return;
    announcement.response.shouldKeepAlive = announcement.keepAlive;
  }

  end(): void {
    // Any Duplex can be injected into an HTTP server; only real sockets have `destroySoon`.
    if (typeof this.#socket.destroySoon === "function") this.#socket.destroySoon();
    else this.#socket.end();
  }

  sayGoodbye(): boolean {
    return false;
  }

  abandon(): void {
    return;
  }

  release(): void {
    this.#pending.clear();
  }
}

export class Http2Exchanges implements Exchanges {
  readonly #session: ServerHttp2Session;
  readonly #socket: Socket;
  readonly #onStream: (stream: ServerHttp2Stream) => void;
  readonly #pending = new Pending<ServerHttp2Stream>();

  /** `socket` is the one below `session`, not the proxy it hands out. */
  constructor(session: ServerHttp2Session, socket: Socket, owner: Http2ExchangesOwner) {
    this.#session = session;
    this.#socket = socket;
    // While draining, a stream on a newer session is not answered with GOAWAY at once: it may be the
    // one that proves the session to be newer than the snapshot. GOAWAY goes out when it is over.
    this.#onStream = (stream) => {
      this.#pending.add(stream, () => owner.onQuiet());
      owner.onStream();
    };
    session.on("stream", this.#onStream);
  }

  get pendingCount(): number {
    return this.#pending.size;
  }

  announceEnd(): void {
    this.#session.close();
  }

  /** GOAWAY cannot be taken back: the peer opens a new session when it needs one. */
  withdrawEnd(): void {
    return;
  }

  /** The socket is half closed by this, and gone when the peer closes its side. */
  end(): void {
    this.#session.close();
  }

  /**
   * GOAWAY is written in the next turn of the event loop, and the socket is closed right behind it.
   * A peer that has just sent a request learns from GOAWAY that the request was not looked at.
   */
  sayGoodbye(): boolean {
    if (this.#session.closed || this.#session.destroyed) return false;
    this.#session.close();
    this.#socket.once("finish", () => this.#socket.destroy());
    return true;
  }

  /** A session reads and writes below its socket, also what it has read already. */
  abandon(): void {
    this.#session.destroy();
  }

  release(): void {
    this.#session.off("stream", this.#onStream);
    this.#pending.clear();
  }
}
