/** Node's HTTP/2 server hands out objects with the interface of HTTP/1's; this tells them apart. */
import type { IncomingMessage } from "node:http";
import type { Http2ServerRequest } from "node:http2";

/** Never by the version: a request line of HTTP/1 may name any. */
export function isHttp2(request: IncomingMessage): request is IncomingMessage & Http2ServerRequest {
  return "stream" in request;
}
