/**
 * The HTTP server of the daemon: what names a sandbox goes to the edge, the rest to the API.
 *
 * Requests to change protocols are heeded for guests only; for the API they are ordinary ones, as a server
 * may always have it (RFC 9110, 7.8). So is `Upgrade: h2c`, which clients offer and nobody insists on; one
 * with a body, which would have to be read before the change; and one that was sent before all earlier
 * requests of its connection were answered, because it takes the connection over.
 */
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { TorporError } from "@torpor/std";
import { rawErrorAnswer, sendError } from "../api/error-answer.ts";
import { clientAnswerTo } from "./client-answer.ts";
import { contain } from "./containment.ts";
import type { Edge } from "./edge.ts";
import { isHttp2 } from "./http2.ts";
import { deadPeerMs, headBytesMax } from "./limits.ts";

/** How often slow clients are looked for. */
const slowClientCheckMs = 1_000;

/** @param serveApi What it throws breaks off the one request. */
export function createListener(
  edge: Edge,
  serveApi: (request: IncomingMessage, response: ServerResponse) => void,
): Server {
  const unanswered = new UnansweredCounts();
  const options = {
    connectionsCheckingInterval: slowClientCheckMs,
    keepAlive: true,
    keepAliveInitialDelay: deadPeerMs,
    maxHeaderSize: headBytesMax,
    // One that has none is refused below, in the words of every refusal.
    requireHostHeader: false,
    shouldUpgradeCallback: (request: IncomingMessage) =>
      mayUpgrade(request) &&
      !unanswered.has(request.socket) &&
      edge.targetOf(request) !== undefined,
  };
  const serve = (request: IncomingMessage, response: ServerResponse, offersBody = false): void => {
    contain(
      () => {
        if (!isHttp2(request)) unanswered.add(request.socket, response);
        const error = malformation(request);
        const target = edge.targetOf(request);
        if (error !== undefined) {
          refuse(request, response, error);
        } else if (target !== undefined) {
          edge.serve(request, response, target);
        } else {
          if (offersBody) response.writeContinue();
          serveApi(request, response);
        }
      },
      () => clientAnswerTo(request, response).breakOff(),
    );
  };
  const server = createServer(options, (request, response) => serve(request, response));
  // The guest decides whether a body that is offered shall come.
  server.on("checkContinue", (request, response) => serve(request, response, true));
  server.on("checkExpectation", (request, response) => {
    const message = "the only expectation that is met here is 100-continue";
    const error = new TorporError("request.expectation", message);
    contain(
      () => refuse(request, response, error),
      () => clientAnswerTo(request, response).breakOff(),
    );
  });
  server.on("connect", (request, socket) => {
    refuseTunnel(socket, unanswered.has(request.socket));
  });
  server.on("upgrade", (request, socket, first) => edge.serveUpgrade(request, socket, first));
  return server;
}

/** Which connections have requests that are not answered yet. */
class UnansweredCounts {
  readonly #counts = new WeakMap<Socket, number>();

  has(socket: Socket): boolean {
    return (this.#counts.get(socket) ?? 0) > 0;
  }

  add(socket: Socket, response: ServerResponse): void {
    this.#change(socket, 1);
    response.once("close", () => this.#change(socket, -1));
  }

  #change(socket: Socket, by: number): void {
    this.#counts.set(socket, (this.#counts.get(socket) ?? 0) + by);
  }
}

function mayUpgrade({ headers, httpVersion }: IncomingMessage): boolean {
  const length = headers["content-length"] ?? "0";
  const hasBody = length !== "0" || headers["transfer-encoding"] !== undefined;
  return httpVersion === "1.1" && !hasBody && !/^h2c$/i.test(headers.upgrade ?? "");
}

/** Node's parser takes `HTTP/2.0` and `HTTP/0.9` in a request line for versions, too. */
function isSpoken(request: IncomingMessage): boolean {
  return isHttp2(request) || request.httpVersion === "1.1" || request.httpVersion === "1.0";
}

function refuse(request: IncomingMessage, response: ServerResponse, error: TorporError): void {
  request.on("error", () => undefined);
  if (!isHttp2(request)) response.shouldKeepAlive = false;
  sendError(request, response, error);
}

/** A request that no server may take, whomever it is for. */
function malformation(request: IncomingMessage): TorporError | undefined {
  if (!isSpoken(request)) {
    const message = "this request line names a version of HTTP that is not spoken here";
    return new TorporError("request.badVersion", message);
  }
  if (isHttp2(request) || request.httpVersion !== "1.1" || request.headers.host !== undefined) {
    return undefined;
  }
  return new TorporError("argument.invalid", "the request has no Host header");
}

/** A tunnel is no business of this server's; one behind requests that are not answered is cut off. */
function refuseTunnel(socket: Duplex, owesAnswers: boolean): void {
  socket.on("error", () => socket.destroy());
  const error = new TorporError("route.missing", "there is no CONNECT here");
  if (owesAnswers) socket.destroy();
  else socket.end(rawErrorAnswer(error), () => socket.destroy());
}
