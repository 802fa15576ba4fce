/**
 * The HTTP server of the daemon: what names a sandbox goes to the edge, the rest to the API.
 *
 * Requests to change protocols are heeded for guests only; for the API they are ordinary ones. So is
 * `Upgrade: h2c`, which clients offer and nobody insists on.
 */
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import type { Edge } from "./edge.ts";
import { deadPeerMs, headBytesMax } from "./limits.ts";

/** How often slow clients are looked for. */
const slowClientCheckMs = 1_000;

export function createListener(
  edge: Edge,
  serveApi: (request: IncomingMessage, response: ServerResponse) => void,
): Server {
  const options = {
    connectionsCheckingInterval: slowClientCheckMs,
    keepAlive: true,
    keepAliveInitialDelay: deadPeerMs,
    maxHeaderSize: headBytesMax,
    shouldUpgradeCallback: (request: IncomingMessage) =>
      edge.takes(request) && !/^h2c$/i.test(request.headers.upgrade ?? ""),
  };
  const serve = (request: IncomingMessage, response: ServerResponse): void => {
    if (edge.takes(request)) void edge.serve(request, response);
    else serveApi(request, response);
  };
  const server = createServer(options, serve);
  // The guest decides whether a body that is offered shall come.
  server.on("checkContinue", (request, response) => {
    if (!edge.takes(request)) response.writeContinue();
    serve(request, response);
  });
  server.on("upgrade", (request, socket, first) => edge.serveUpgrade(request, socket, first));
  return server;
}
