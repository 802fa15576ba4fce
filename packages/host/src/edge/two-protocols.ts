/**
 * A server that speaks HTTP/1.1 and HTTP/2 on one port: a client that knows that HTTP/2 is spoken begins with
 * its preface (RFC 9113, 3.4), over TCP as over TLS, and everybody else is one of HTTP/1.1.
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

export class TwoProtocolServer extends Server {
  readonly #http2 = createHttp2Server({ settings: { maxConcurrentStreams: streamsMax } });
  /** Those that HTTP/1 does not know of, or not yet. */
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
      // Streams that are open go on, however silent they are.
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

  /** Reads no more than it must, and puts it back. */
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

  /** As Node does it for one of HTTP/1 that sends no head. */
  #timeOut(socket: Socket): void {
    const cause = Object.assign(new Error("no request came"), { code: "ERR_HTTP_REQUEST_TIMEOUT" });
    if (!this.emit("clientError", cause, socket)) socket.destroy();
  }
}

/**
 * HTTP/2 needs no header to say that a body follows; whoever reads HTTP/1 takes one without for none.
 * No client can send this header over HTTP/2 (RFC 9113, 8.2.2).
 */
function announceBody({ headers, stream }: Http2ServerRequest): void {
  const isSaid = headers["content-length"] !== undefined;
  if (!isSaid && !stream.endAfterHeaders) headers["transfer-encoding"] = "chunked";
}
