/**
 * Serves the RPCs: the Connect protocol with JSON, on Node's own request and response.
 *
 * Used instead of the library's own adapter, which writes to the console whenever a client
 * disconnects.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { type ConnectRouter, createConnectRouter, createContextValues } from "@connectrpc/connect";
import {
  universalRequestFromNodeRequest,
  universalResponseToNodeResponse,
} from "@connectrpc/connect-node";
import type { Logger } from "@torpor/std";
import { parseLargeJson } from "./large-json.ts";
import { takeTimeoutHeader, timeoutKey } from "./stream-headers.ts";

/**
 * LIMIT: one message of an RPC. File contents go through `/files`; terminal input comes in small
 * pieces.
 */
const messageBytesMax = 16 << 20;

/** Answers a request if its path is that of an RPC; returns whether it is. */
export type RpcHandler = (
  path: string,
  request: IncomingMessage,
  response: ServerResponse,
) => boolean;

/**
 * Makes the handler of the services that `register` adds. It answers failures itself and logs them.
 */
export function createRpcHandler(
  register: (router: ConnectRouter) => void,
  log: Logger,
): RpcHandler {
  const router = createConnectRouter({
    grpc: false,
    grpcWeb: false,
    // Small messages over a local line: compressing costs more than it saves.
    acceptCompression: [],
    readMaxBytes: messageBytesMax,
  });
  register(router);
  const handlers = new Map(router.handlers.map((handler) => [handler.requestPath, handler]));
  return (path, request, response) => {
    const handler = handlers.get(path);
    if (handler === undefined) return false;
    const values = createContextValues().set(timeoutKey, takeTimeoutHeader(request.headers));
    // The library builds a URL from it, which nothing reads.
    request.headers.host = "agent";
    const universal = universalRequestFromNodeRequest(request, response, undefined, values);
    parseLargeJson(universal, handler, messageBytesMax)
      .then(handler)
      .then((answer) => universalResponseToNodeResponse(answer, response))
      .catch((cause: unknown) => {
        // A client that disconnected is not our failure.
        if (!response.destroyed) log.error("an RPC failed", { path, cause });
      });
    return true;
  };
}
