/**
 * One HTTP request of a client, carried to the guest, and the answer carried back, as they arrive.
 *
 * Nothing is stored on the way except in the sockets: a side that reads slowly slows down the
 * other. If a request fails on an idle connection, it is sent again on another, provided that it
 * has no body and may be repeated (RFC 9110, 9.2.2): the guest's server had closed the connection
 * before the request came.
 *
 * When the guest is paused, a client without an answer gets one from the edge, a Connect stream
 * that is between two envelopes gets its last one, and everything else is cut off where it is, so
 * that no client takes half an answer for a whole one. When the guest is stopped there is no last
 * envelope: E2B's clients take a broken connection for the sign to ask whether the sandbox is still
 * there, and then report that it is not.
 *
 * Every event of the exchange, from either side, passes `#contain`: a failure in it fails this
 * exchange only.
 */
import type { EventEmitter } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { agentPort } from "@torpor/protocol";
import { TorporError, ignoreFailure } from "@torpor/std";
import type { AnswerHead } from "./answer-parser.ts";
import { type ClientAnswer, clientAnswerTo } from "./client-answer.ts";
import { ConnectEnvelopes, endOfStream, isConnectStream } from "./connect-envelopes.ts";
import { contain, listen } from "./containment.ts";
import type { CallEvents, GuestCall } from "./guest-call.ts";
import { OtherProtocol, http2Name } from "./guest-protocol.ts";
import { type Client, type RequestHead, http2RequestFields, requestFields } from "./heads.ts";
import { type Fields, noFields, valueOf } from "./http-syntax.ts";
import { isHttp2 } from "./http2.ts";
import type { Ending, Exchange, ExchangeKind, Traffic } from "./traffic.ts";
import { UpgradedPair } from "./upgraded-pair.ts";

/** How long a client that does not read keeps its connection after its exchange was ended. */
const lingerMs = 10_000;
const repeatable = new Set(["GET", "HEAD", "OPTIONS"]);

const pausedMessage = "The sandbox was paused";
/** Clients see in the first words that a retry is of no use. */
const unansweredMessages: Readonly<Record<Ending, string>> = {
  paused: "The sandbox was not found: it was paused",
  stopped: "The sandbox was not found: it was stopped",
};

/** The run, and the port of its guest, that a request goes to. */
export interface Destination {
  readonly traffic: Traffic;
  readonly port: number;
  readonly maskedHost: string | undefined;
}

/** A client's request to change protocols. */
export interface UpgradeWish {
  readonly protocol: string;
  readonly socket: Duplex;
  /** Bytes the client sent after its request. */
  readonly first: Buffer;
}

/** A client's request, and the means to answer it. */
export interface Asked {
  readonly head: RequestHead;
  readonly client: Client;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly wish: UpgradeWish | undefined;
}

/** One exchange, as traffic (it may be cut) and as the receiver of its call's events. */
export class HttpExchange implements Exchange, CallEvents {
  readonly #to: Destination;
  readonly #asked: Asked;
  readonly #answer: ClientAnswer;
  readonly #hasBody: boolean;
  /** Settles when the exchange is over; it can fail only before the head of an answer is sent. */
  readonly #over = Promise.withResolvers<void>();
  #isOver = false;
  #kind: ExchangeKind = "request";
  #call: GuestCall | undefined;
  #hasBytes = false;
  #envelopes: ConnectEnvelopes | undefined;
  #pair: UpgradedPair | undefined;

  constructor(to: Destination, asked: Asked) {
    this.#to = to;
    this.#asked = asked;
    this.#answer = clientAnswerTo(asked.request, asked.response);
    this.#hasBody = asked.head.framing.kind !== "none";
    void ignoreFailure("whoever runs it is told", this.#over.promise);
  }

  get kind(): ExchangeKind {
    return this.#kind;
  }

  /**
   * Settles when the exchange is over.
   * @throws the error that keeps the guest from answering; then nothing was sent to the client
   */
  async run(): Promise<void> {
    const { request, response } = this.#asked;
    using uses = new DisposableStack();
    uses.use(this.#to.traffic.begin(this));
    this.#on(response, "close", () => this.#finish());
    if (this.#hasBody) this.#on(request, "error", () => this.#fail(brokenBody()));
    if (this.#answer.isGone) return;
    this.#ask();
    try {
      await this.#over.promise;
    } finally {
      this.#isOver = true;
      this.#call?.destroy();
      // A body that is not read any more would be in the way of the client's next request.
      request.removeAllListeners("data");
      request.resume();
    }
  }

  cut(ending: Ending): void {
    this.#contain(() => {
      this.#call?.destroy();
      if (this.#pair !== undefined) {
        this.#pair.cut(ending);
      } else if (!this.#answer.isBegun) {
        this.#over.reject(new TorporError("guest.unreachable", unansweredMessages[ending]));
      } else if (ending === "paused" && this.#envelopes?.mayEnd === true) {
        this.#answer.write(endOfStream("unavailable", pausedMessage));
        this.#answer.end(noFields);
        setTimeout(() => this.#answer.breakOff(), lingerMs).unref();
      } else {
        this.#answer.breakOff();
      }
    });
    // A client that reads slowly neither keeps the sandbox awake nor delays its next run.
    this.#finish();
  }

  onInterim(head: AnswerHead): void {
    this.#contain(() => this.#answer.sendInterim(head));
  }

  onHead(head: AnswerHead, isWhole: boolean): void {
    this.#contain(() => {
      this.#classify(head);
      this.#answer.sendHead(head, isWhole);
      if (isWhole) return;
      // Head and first bytes go out together, if they came together.
      setImmediate(() => {
        if (!this.#hasBytes) this.#contain(() => this.#answer.flush());
      });
    });
  }

  onBody(bytes: Buffer): void {
    this.#contain(() => {
      this.#hasBytes = true;
      this.#envelopes?.push(bytes);
      if (!this.#answer.write(bytes)) this.#call?.pause();
    });
  }

  onEnd(trailers: Fields): void {
    this.#contain(() => {
      this.#hasBytes = true;
      this.#answer.end(trailers);
    });
  }

  onUpgraded(head: AnswerHead, socket: Duplex, first: Buffer): void {
    this.#contain(() => {
      const { wish } = this.#asked;
      if (wish === undefined) throw new TorporError("guest.refused", "the guest changed protocols");
      this.#kind = "upgraded";
      this.#to.traffic.noteChange();
      this.#pair = new UpgradedPair({ client: wish.socket, guest: socket, answer: head });
      this.#pair.start(wish.first, first);
      void this.#pair.closed.then(() => this.#finish());
    });
  }

  onDrain(): void {
    this.#asked.request.resume();
  }

  onFailed(cause: unknown, isStale: boolean): void {
    const { traffic, port } = this.#to;
    const isUnheard = cause instanceof OtherProtocol && cause.spoken === http2Name;
    if (isUnheard) traffic.pool.spoken.set(port, "HTTP/2");
    const mayRepeat = isUnheard
      ? isHttp2(this.#asked.request)
      : isStale && repeatable.has(this.#asked.head.method);
    if (mayRepeat && !this.#hasBody && traffic.phase !== "over") this.#ask();
    else this.#fail(cause);
  }

  #ask(): void {
    this.#contain(async () => {
      const call = (await this.#isForHttp2()) ? await this.#callHttp2() : await this.#callHttp1();
      this.#call = call;
      if (this.#isOver) call.destroy();
      else if (this.#hasBody) this.#sendBody(call);
    });
  }

  /**
   * Whether to speak HTTP/2 to the guest: only with a server that speaks nothing else, for a client
   * that speaks it too.
   */
  async #isForHttp2(): Promise<boolean> {
    const { traffic, port } = this.#to;
    if (!isHttp2(this.#asked.request) || port === agentPort) return false;
    if (isGrpc(this.#asked.head)) return true;
    const known = traffic.pool.spoken.get(port);
    if (known !== undefined) return known === "HTTP/2";
    // A request without a body is sent again once the answer shows the protocol.
    return this.#hasBody && (await traffic.pool.tryHttp2(port));
  }

  async #callHttp1(): Promise<GuestCall> {
    const { traffic, port, maskedHost } = this.#to;
    const { head, client, wish } = this.#asked;
    const connection = await traffic.pool.take(port);
    const { method, path, framing } = head;
    const upgrade = wish?.protocol;
    const fields = requestFields(head, { maskedHost, upgrade, client });
    const mayUpgrade = upgrade !== undefined;
    return connection.send({ method, path, fields, framing, mayUpgrade }, this);
  }

  async #callHttp2(): Promise<GuestCall> {
    const { traffic, port, maskedHost } = this.#to;
    const { head, client } = this.#asked;
    try {
      const connection = await traffic.pool.takeHttp2(port);
      return connection.send(http2RequestFields(head, { maskedHost, client }), this.#hasBody, this);
    } catch (cause) {
      // Another server may listen there by now.
      traffic.pool.spoken.delete(port);
      throw cause;
    }
  }

  #sendBody(call: GuestCall): void {
    const { request } = this.#asked;
    this.#on(request, "data", (chunk: Buffer) => {
      if (!call.write(chunk)) request.pause();
    });
    this.#on(request, "end", () => call.end());
  }

  #classify({ fields }: AnswerHead): void {
    const contentType = valueOf(fields, "content-type");
    const isConnect = isConnectStream(contentType);
    this.#on(this.#asked.response, "drain", () => this.#call?.resume());
    if (!isConnect && !/^text\/event-stream/i.test(contentType ?? "")) return;
    this.#kind = "stream";
    this.#to.traffic.noteChange();
    // Nothing can be appended to a body with a declared length or a compression of the whole.
    const isPlain =
      !fields.names.includes("content-length") && !fields.names.includes("content-encoding");
    if (isConnect && isPlain) this.#envelopes = new ConnectEnvelopes();
  }

  /**
   * Before the head, `run` rejects and its caller answers; after it, the client's answer is broken
   * off.
   */
  #fail(cause: unknown): void {
    if (this.#isOver) return;
    this.#call?.destroy();
    if (this.#pair !== undefined) this.#pair.cut("stopped");
    else if (this.#answer.isBegun) this.#answer.breakOff();
    else this.#over.reject(cause);
    this.#finish();
  }

  #finish(): void {
    this.#isOver = true;
    this.#over.resolve();
  }

  #on(emitter: EventEmitter, name: string, listener: (bytes: Buffer) => void): void {
    listen(emitter, name, listener, (cause) => this.#fail(cause));
  }

  #contain(work: () => void | Promise<void>): void {
    contain(work, (cause) => this.#fail(cause));
  }
}

/** gRPC is spoken over HTTP/2 only; its variant for browsers is not. */
function isGrpc({ fields }: RequestHead): boolean {
  return /^application\/grpc(?:$|[+;\s])/i.test(valueOf(fields, "content-type") ?? "");
}

/** The error of a request whose body cannot be read to its end. */
export function brokenBody(): TorporError {
  return new TorporError("argument.invalid", "the body of the request is not valid HTTP");
}
