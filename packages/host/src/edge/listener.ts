/**
 * The HTTP server of the daemon: requests that name a sandbox go to the edge, all others to the
 * API.
 *
 * Requests to change protocols are honoured for guests only; the API handles them as ordinary
 * requests, which a server may always do (RFC 9110, 7.8). The same is done with `Upgrade: h2c`,
 * which clients offer and never insist on; with a request that has a body, which would have to be
 * read before the change; and with one that was sent before all earlier requests of its connection
 * were answered, because it takes the connection over. Such a request is the last of its
 * connection.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { TorporError } from "@torpor/std";
import { rawErrorAnswer, sendError } from "../api/error-answer.ts";
import { clientAnswerTo } from "./client-answer.ts";
import { contain } from "./containment.ts";
import type { Edge } from "./edge.ts";
import { type RequestHead, requestHead } from "./heads.ts";
import { SyntaxFault } from "./http-syntax.ts";
import { isHttp2 } from "./http2.ts";
import { deadPeerMs, headBytesMax, pipelinedMax } from "./limits.ts";
import { TwoProtocolServer } from "./two-protocols.ts";

/** How often the server looks for slow clients. */
const slowClientCheckMs = 1_000;

/**
 * Makes the server.
 * @param serveApi Serves one request of the API; an error that it throws breaks off that request.
 */
export function createListener(
  edge: Edge,
  serveApi: (request: IncomingMessage, response: ServerResponse) => void,
): Server {
  const connections = new Connections();
  const options = {
    connectionsCheckingInterval: slowClientCheckMs,
    keepAlive: true,
    keepAliveInitialDelay: deadPeerMs,
    maxHeaderSize: headBytesMax,
    // A request without one is refused below, in the form of every refusal.
    requireHostHeader: false,
    shouldUpgradeCallback: (request: IncomingMessage) =>
      mayUpgrade(request) &&
      connections.mayChange(request.socket) &&
      edge.targetOf(request) !== undefined,
  };
  /** @param expectation The client's `Expect`: `100-continue`, or something unknown. */
  const serve = (
    request: IncomingMessage,
    response: ServerResponse,
    expectation?: "continue" | "unknown",
  ): void => {
    contain(
      () => {
        if (!connections.begin(request, response)) return;
        edge.connections.serve(request, response);
        // From here on Node's parser drops the bytes that came together with this request, and
        // would continue in the middle of the rest.
        if (request.headers.upgrade !== undefined && !isHttp2(request)) {
          connections.giveUp(request);
          response.shouldKeepAlive = false;
        }
        const head = connections.isFull(request) ? tooManyPipelined() : readHead(request);
        if (head instanceof TorporError) {
          connections.giveUp(request);
          refuse(request, response, head);
        } else if (expectation === "unknown") {
          refuse(request, response, unknownExpectation());
        } else {
          const target = edge.targetOf(request);
          if (target !== undefined) {
            edge.serve(request, response, { target, head });
          } else {
            if (expectation === "continue") response.writeContinue();
            serveApi(request, response);
          }
        }
      },
      () => clientAnswerTo(request, response).breakOff(),
    );
  };
  const server = new TwoProtocolServer(options, (request, response) => serve(request, response));
  server.on("connection", (socket) => edge.connections.admit(socket));
  // The guest decides whether the client should send the offered body.
  server.on("checkContinue", (request, response) => serve(request, response, "continue"));
  server.on("checkExpectation", (request, response) => serve(request, response, "unknown"));
  server.on("connect", (request, socket) => {
    refuseTunnel(socket, connections.mayChange(request.socket));
  });
  server.on("upgrade", (request, socket, first) => {
    contain(
      () => {
        const head = readHead(request);
        if (head instanceof TorporError) endWith(socket, head);
        else edge.serveUpgrade(request, head, { socket, first });
      },
      () => socket.destroy(),
    );
  });
  return server;
}

/** State of HTTP/1 connections that Node does not keep. */
class Connections {
  readonly #unanswered = new WeakMap<Socket, number>();
  readonly #givenUp = new WeakSet<Socket>();

  /**
   * Whether the connection may change protocols: all its requests are answered, and the next one is
   * served.
   */
  mayChange(socket: Socket): boolean {
    return (this.#unanswered.get(socket) ?? 0) === 0 && !this.#givenUp.has(socket);
  }

  /** @returns false for a request that must not be served. */
  begin(request: IncomingMessage, response: ServerResponse): boolean {
    if (isHttp2(request)) return true;
    const { socket } = request;
    if (this.#givenUp.has(socket)) return false;
    this.#change(socket, 1);
    response.once("close", () => this.#change(socket, -1));
    return true;
  }

  /** Whether more requests wait for their answers than one connection may have. */
  isFull({ socket }: IncomingMessage): boolean {
    return (this.#unanswered.get(socket) ?? 0) > pipelinedMax;
  }

  /** Serves nothing behind this request: its end is ambiguous, or too many wait for answers. */
  giveUp(request: IncomingMessage): void {
    if (!isHttp2(request)) this.#givenUp.add(request.socket);
  }

  #change(socket: Socket, by: number): void {
    this.#unanswered.set(socket, (this.#unanswered.get(socket) ?? 0) + by);
  }
}

function mayUpgrade({ headers, httpVersion }: IncomingMessage): boolean {
  const length = headers["content-length"] ?? "0";
  const hasBody = length !== "0" || headers["transfer-encoding"] !== undefined;
  return httpVersion === "1.1" && !hasBody && !/^h2c$/i.test(headers.upgrade ?? "");
}

/**
 * Whether the version is one that the daemon speaks. Node's parser also accepts `HTTP/2.0` and
 * `HTTP/0.9` in a request line.
 */
function isSpoken(request: IncomingMessage): boolean {
  return isHttp2(request) || request.httpVersion === "1.1" || request.httpVersion === "1.0";
}

function refuse(request: IncomingMessage, response: ServerResponse, error: TorporError): void {
  request.on("error", () => undefined);
  if (!isHttp2(request)) response.shouldKeepAlive = false;
  sendError(request, response, error);
}

function tooManyPipelined(): TorporError {
  const message = `more than ${pipelinedMax} requests of one connection wait for their answers`;
  return new TorporError("host.busy", message);
}

function unknownExpectation(): TorporError {
  const message = "the only expectation that is met here is 100-continue";
  return new TorporError("request.expectation", message);
}

/**
 * Parses the head.
 * @returns the error instead if no server may take the request, whatever its target.
 */
function readHead(request: IncomingMessage): RequestHead | TorporError {
  if (!isSpoken(request)) {
    const message = "this request line names a version of HTTP that is not spoken here";
    return new TorporError("request.badVersion", message);
  }
  if (request.httpVersion === "1.1" && request.headers.host === undefined) {
    return new TorporError("argument.invalid", "the request has no Host header");
  }
  try {
    return requestHead(request);
  } catch (cause) {
    if (!(cause instanceof SyntaxFault)) throw cause;
    return new TorporError("argument.invalid", `the request cannot be taken: ${cause.message}`);
  }
}

/**
 * Refuses a tunnel, which this server does not offer; if earlier requests are not answered yet,
 * cuts the connection.
 */
function refuseTunnel(socket: Duplex, mayAnswer: boolean): void {
  socket.on("error", () => socket.destroy());
  if (mayAnswer) endWith(socket, new TorporError("route.missing", "there is no CONNECT here"));
  else socket.destroy();
}

function endWith(socket: Duplex, error: TorporError): void {
  socket.on("error", () => socket.destroy());
  socket.end(rawErrorAnswer(error), () => socket.destroy());
}
