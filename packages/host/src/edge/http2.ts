/** Facts about Node's HTTP/2 that neither its types nor its manual tell. */
import type { IncomingMessage } from "node:http";
import type { Http2ServerRequest, Http2Stream } from "node:http2";

/**
 * Whether a request came over HTTP/2: Node's HTTP/2 server passes objects with the interface of
 * HTTP/1's. Do not decide by the version: a request line of HTTP/1 may name any.
 */
export function isHttp2(request: IncomingMessage): request is IncomingMessage & Http2ServerRequest {
  return "stream" in request;
}

/**
 * Resets a stream, so that the peer does not take a part of a message for the whole. `close` would
 * not do: it ends our side first and flushes pending bytes before the reset, so the peer would see
 * a regular end.
 */
export function breakOffStream(stream: Http2Stream): void {
  stream.on("error", () => undefined); // the one that it is destroyed with
  stream.destroy(new Error("broken off"));
}
