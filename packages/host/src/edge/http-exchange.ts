/**
 * One HTTP request of a client, carried to the guest, and the answer carried back, as they come.
 *
 * Nothing is stored on the way but what the sockets hold: whoever reads slowly slows down the other.
 * A request that an idle connection failed is sent again on another, if it has no body and may be
 * repeated (RFC 9110, 9.2.2): the guest's server had hung up before it came.
 *
 * When the guest is paused, whoever has no answer yet gets one from the edge, a Connect stream gets its
 * last envelope if it is between two, and everything else is cut off where it is, so that no client
 * takes half an answer for a whole one.
 */
import type { ClientRequest, IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { TorporError, ignoreFailure, systemCode } from "@torpor/std";
import { ConnectEnvelopes, endOfStream, isConnectStream } from "./connect-envelopes.ts";
import { type GuestAnswer, sendToGuest } from "./guest-request.ts";
import { isHttp2 } from "./http2.ts";
import { answerHeaders, http2AnswerHeaders, requestHeaders } from "./headers.ts";
import type { Ending, Exchange, ExchangeKind, Traffic } from "./traffic.ts";
import { UpgradedPair } from "./upgraded-pair.ts";

/** A client that does not read is cut off so long after its exchange was ended. */
const lingerMs = 10_000;
const repeatable = new Set(["GET", "HEAD", "OPTIONS"]);

const endingMessages: Readonly<Record<Ending, string>> = {
  paused: "The sandbox was paused",
  stopped: "The sandbox was stopped",
};

/** Where a request goes. */
export interface Destination {
  readonly traffic: Traffic;
  readonly port: number;
  /** Path and query. */
  readonly path: string;
  readonly maskedHost: string | undefined;
}

/** A client's request to change protocols. */
export interface UpgradeWish {
  readonly protocol: string;
  readonly socket: Duplex;
  /** What the client has sent behind its request. */
  readonly first: Buffer;
}

export class HttpExchange implements Exchange {
  readonly #to: Destination;
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #wish: UpgradeWish | undefined;
  /** Settles when the exchange is over; before the head of an answer it may only fail. */
  readonly #over = Promise.withResolvers<void>();
  #kind: ExchangeKind = "request";
  #outgoing: ClientRequest | undefined;
  #envelopes: ConnectEnvelopes | undefined;
  #pair: UpgradedPair | undefined;

  constructor(
    to: Destination,
    request: IncomingMessage,
    response: ServerResponse,
    wish?: UpgradeWish,
  ) {
    this.#to = to;
    this.#request = request;
    this.#response = response;
    this.#wish = wish;
    void ignoreFailure("whoever runs it is told", this.#over.promise);
  }

  get kind(): ExchangeKind {
    return this.#kind;
  }

  /** Settles when it is over. @throws whatever keeps the guest from answering; nothing is sent then */
  async run(): Promise<void> {
    using uses = new DisposableStack();
    uses.use(this.#to.traffic.begin(this));
    const response = this.#response;
    response.once("close", () => {
      this.#outgoing?.destroy();
      this.#over.resolve();
    });
    if (response.destroyed) return;
    try {
      const answer = await Promise.race([this.#ask(), this.#over.promise]);
      if (answer === undefined) return; // the client is gone
      if (answer.upgraded === undefined) this.#relay(answer.head);
      else this.#join(answer.head, answer.upgraded);
      await this.#over.promise;
    } finally {
      this.#outgoing?.destroy();
      // What nobody reads any more would be in the way of the client's next request.
      this.#request.unpipe();
      this.#request.resume();
    }
  }

  cut(ending: Ending): void {
    const message = endingMessages[ending];
    const response = this.#response;
    this.#outgoing?.destroy();
    if (this.#pair !== undefined) {
      this.#pair.cut(ending);
    } else if (!response.headersSent) {
      this.#over.reject(new TorporError("guest.unreachable", message));
    } else if (this.#envelopes?.mayEnd === true) {
      response.end(endOfStream("unavailable", message));
      setTimeout(() => response.destroy(), lingerMs).unref();
    } else {
      response.destroy();
    }
    // Whoever reads slowly keeps neither the sandbox awake nor its next run waiting.
    this.#over.resolve();
  }

  async #ask(): Promise<GuestAnswer> {
    const { traffic, port, path, maskedHost } = this.#to;
    const method = this.#request.method ?? "GET";
    const body = hasBody(this.#request);
    const upgrade = this.#wish?.protocol;
    const headers = requestHeaders(this.#request, { maskedHost, upgrade, hasBody: body });
    for (;;) {
      const { outgoing, answered } = sendToGuest({
        pool: traffic.pool,
        port,
        method,
        path,
        headers,
      });
      this.#outgoing = outgoing;
      if (body) this.#sendBody(outgoing);
      else outgoing.end();
      try {
        return await answered;
      } catch (cause) {
        const isStale = outgoing.reusedSocket && systemCode(cause) === "ECONNRESET";
        if (!isStale || body || !repeatable.has(method) || traffic.phase === "over") throw cause;
      }
    }
  }

  #sendBody(outgoing: ClientRequest): void {
    const request = this.#request;
    outgoing.on("continue", () => this.#response.writeContinue());
    let begun = false;
    request.once("data", () => (begun = true));
    request.pipe(outgoing);
    request.once("error", () => outgoing.destroy());
    // A body that takes its time does not hold up the head.
    setImmediate(() => {
      if (!begun && !outgoing.destroyed) outgoing.flushHeaders();
    });
  }

  #relay(answer: IncomingMessage): void {
    const response = this.#response;
    const status = answer.statusCode ?? 502;
    if (isHttp2(this.#request)) {
      response.writeHead(status, http2AnswerHeaders(answer));
    } else {
      response.writeHead(status, answer.statusMessage, answerHeaders(answer));
    }
    this.#classify(answer);
    let begun = false;
    answer.on("data", (chunk: Buffer) => {
      begun = true;
      this.#envelopes?.push(chunk);
      if (!response.write(chunk)) answer.pause();
    });
    response.on("drain", () => answer.resume());
    answer.once("end", () => {
      begun = true;
      const trailers = answer.trailers;
      if (Object.keys(trailers).length > 0) response.addTrailers(trailers);
      response.end();
    });
    answer.on("error", () => response.destroy());
    // Head and first bytes go out together, if they came together.
    setImmediate(() => {
      if (!begun && !response.destroyed) response.flushHeaders();
    });
  }

  #classify({ headers }: IncomingMessage): void {
    const contentType = headers["content-type"];
    const isStream = isConnectStream(contentType) || /^text\/event-stream/i.test(contentType ?? "");
    if (!isStream) return;
    this.#kind = "stream";
    this.#to.traffic.noteChange();
    // Behind a body that is counted or compressed as a whole nothing can be put.
    const isPlain =
      headers["content-length"] === undefined && headers["content-encoding"] === undefined;
    if (isConnectStream(contentType) && isPlain) this.#envelopes = new ConnectEnvelopes();
  }

  #join(answer: IncomingMessage, guest: { readonly socket: Duplex; readonly first: Buffer }): void {
    const wish = this.#wish;
    if (wish === undefined) throw new TorporError("guest.refused", "the guest changed protocols");
    this.#kind = "upgraded";
    this.#to.traffic.noteChange();
    this.#pair = new UpgradedPair({ client: wish.socket, guest: guest.socket, answer });
    this.#pair.start(wish.first, guest.first);
    void this.#pair.closed.then(() => this.#over.resolve());
  }
}

function hasBody(request: IncomingMessage): boolean {
  if (isHttp2(request)) return !request.stream.endAfterHeaders;
  const { "content-length": length, "transfer-encoding": coding } = request.headers;
  return coding !== undefined || (length !== undefined && length !== "0");
}
