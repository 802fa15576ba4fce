/**
 * A server that speaks HTTP/1.1 and HTTP/2 on one port. A client that knows that the server speaks
 * HTTP/2 begins with its preface (RFC 9113, 3.4), over TCP as over TLS; every other client speaks
 * HTTP/1.1.
 *
 * The objects of requests have the same interface for both; `isHttp2` tells them apart.
 */
import { type RequestListener, Server, type ServerOptions } from "node:http";
import {
  type Http2ServerRequest,
  type Http2ServerResponse,
  createServer as createHttp2Server,
} from "node:http2";
import type { Socket } from "node:net";
import { streamsMax } from "./limits.ts";

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");

type ServeConnection = (this: Server, socket: Socket) => void;

/** Node's HTTP server, extended by HTTP/2: it emits `request` and `checkContinue` for both. */
export class TwoProtocolServer extends Server {
  readonly #http2 = createHttp2Server({ settings: { maxConcurrentStreams: streamsMax } });
  /** Connections that the HTTP/1 server does not know, or not yet. */
  readonly #others = new Set<Socket>();

  constructor(options: ServerOptions, listener: RequestListener) {
    super(options, listener);
    const [serveHttp1] = this.listeners("connection") as ServeConnection[];
    this.removeAllListeners("connection");
    this.on("connection", (socket: Socket) => {
      this.#sniff(socket, (isHttp2) => {
        if (isHttp2) {
          this.#hold(socket);
          this.#http2.emit("connection", socket);
        } else {
          serveHttp1?.call(this, socket);
        }
      });
    });
    this.#http2.on("session", (session) => {
      // Open streams continue, however silent they are.
      session.setTimeout(this.keepAliveTimeout, () => session.close());
    });
    for (const name of ["request", "checkContinue"]) {
      this.#http2.on(name, (request: Http2ServerRequest, response: Http2ServerResponse) => {
        announceBody(request);
        this.emit(name, request, response);
      });
    }
  }

  override closeAllConnections(): void {
    super.closeAllConnections();
    for (const socket of this.#others) socket.destroy();
  }

  /** Reads as little as it must, and puts the bytes back. */
  #sniff(socket: Socket, serve: (isHttp2: boolean) => void): void {
    let held: Buffer = Buffer.alloc(0);
    const release = this.#hold(socket);
    const fail = (): void => void socket.destroy();
    const timer = setTimeout(() => this.#timeOut(socket), this.headersTimeout);
    const onReadable = (): void => {
      const chunk = socket.read() as Buffer | null;
      if (chunk === null) return;
      held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
      const length = Math.min(held.length, preface.length);
      const mayBe = held.subarray(0, length).equals(preface.subarray(0, length));
      if (mayBe && length < preface.length) return;
      clearTimeout(timer);
      release();
      socket.off("readable", onReadable).off("error", fail).off("end", fail);
      socket.unshift(held);
      serve(mayBe);
    };
    socket.on("readable", onReadable).on("error", fail).on("end", fail);
    socket.once("close", () => clearTimeout(timer));
  }

  #hold(socket: Socket): () => void {
    this.#others.add(socket);
    const release = (): void => void this.#others.delete(socket);
    socket.once("close", release);
    return release;
  }

  /** Reports the timeout as Node does for an HTTP/1 client that sends no head. */
  #timeOut(socket: Socket): void {
    const cause = Object.assign(new Error("no request came"), { code: "ERR_HTTP_REQUEST_TIMEOUT" });
    if (!this.emit("clientError", cause, socket)) socket.destroy();
  }
}

/**
 * HTTP/2 needs no header to announce a body; a reader of HTTP/1 takes a request without one to have
 * no body. No client can send this header over HTTP/2 (RFC 9113, 8.2.2).
 */
function announceBody({ headers, stream }: Http2ServerRequest): void {
  const isSaid = headers["content-length"] !== undefined;
  if (!isSaid && !stream.endAfterHeaders) headers["transfer-encoding"] = "chunked";
}
