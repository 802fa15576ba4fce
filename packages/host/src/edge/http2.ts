/** What Node's HTTP/2 is not told by its types, nor by its manual. */
import type { IncomingMessage } from "node:http";
import type { Http2ServerRequest, Http2Stream } from "node:http2";

/**
 * Node's HTTP/2 server hands out objects with the interface of HTTP/1's. Never by the version: a request
 * line of HTTP/1 may name any.
 */
export function isHttp2(request: IncomingMessage): request is IncomingMessage & Http2ServerRequest {
  return "stream" in request;
}

/**
 * Resets a stream, so that the other side takes nothing that it has of a message for the whole. `close`
 * ends the own side first, and what is pending is flushed before the reset: the other side would see an end.
 */
export function breakOffStream(stream: Http2Stream): void {
  stream.on("error", () => undefined); // the one that it is destroyed with
  stream.destroy(new Error("broken off"));
}
