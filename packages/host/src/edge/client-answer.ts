/**
 * The answer to a client: head, body and trailers as a guest sent them, in the client's own
 * protocol.
 *
 * An answer that is broken off must look so to the client, never complete. HTTP/1.0 has no other
 * sign for that than a reset, and HTTP/2 needs an error code, because clients take every other
 * close for the end.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { ServerHttp2Stream } from "node:http2";
import type { AnswerHead } from "./answer-parser.ts";
import { answerFields, http2Fields, reasonOf, trailerFields } from "./heads.ts";
import { type Fields, noFields, valueOf } from "./http-syntax.ts";
import { breakOffStream, isHttp2 } from "./http2.ts";

/** One answer to a client, in HTTP/1 or HTTP/2. */
export interface ClientAnswer {
  /** Whether the head was sent, so that no other answer can be given. */
  readonly isBegun: boolean;
  /** Whether the client has disconnected, so that no answer can be given at all. */
  readonly isGone: boolean;
  sendInterim(head: AnswerHead): void;
  /**
   * @param isWhole There is no body. Otherwise the head may wait for the first bytes until `flush`.
   */
  sendHead(head: AnswerHead, isWhole: boolean): void;
  flush(): void;
  /** @returns false when the caller should wait until the client has read */
  write(bytes: Buffer): boolean;
  end(trailers: Fields): void;
  /** Breaks the answer off. Safe to repeat, and after the end. */
  breakOff(): void;
}

/** Makes the answer to a request, in the request's protocol. */
export function clientAnswerTo(request: IncomingMessage, response: ServerResponse): ClientAnswer {
  if (isHttp2(request)) return new Http2Answer(request.stream);
  return new Http1Answer(request, response);
}

class Http1Answer implements ClientAnswer {
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  #isFramed = true;

  constructor(request: IncomingMessage, response: ServerResponse) {
    this.#request = request;
    this.#response = response;
  }

  get isBegun(): boolean {
    return this.#response.headersSent;
  }

  get isGone(): boolean {
    return this.#response.destroyed;
  }

  sendInterim(head: AnswerHead): void {
    if (this.#request.httpVersion === "1.0" || this.isBegun) return; // it knows none
    this.#response.writeInformation(head.status, answerFields(head));
  }

  sendHead(head: AnswerHead, isWhole: boolean): void {
    const isOld = this.#request.httpVersion === "1.0";
    this.#isFramed = !isOld || isWhole || valueOf(head.fields, "content-length") !== undefined;
    this.#response.writeHead(head.status, reasonOf(head), answerFields(head));
  }

  flush(): void {
    if (!this.#response.destroyed) this.#response.flushHeaders();
  }

  write(bytes: Buffer): boolean {
    return this.#response.write(bytes);
  }

  end(trailers: Fields): void {
    const response = this.#response;
    if (trailers !== noFields) response.addTrailers(asEntries(trailerFields(trailers)));
    response.end();
  }

  breakOff(): void {
    const response = this.#response;
    if (!this.#isFramed && !response.writableFinished) response.socket?.resetAndDestroy();
    response.destroy();
  }
}

/**
 * Uses the stream itself, because Node's imitation of HTTP/1 on it cannot end it within the head.
 */
class Http2Answer implements ClientAnswer {
  readonly #stream: ServerHttp2Stream;
  #trailers: Fields = noFields;

  constructor(stream: ServerHttp2Stream) {
    this.#stream = stream;
  }

  get isBegun(): boolean {
    return this.#stream.headersSent;
  }

  get isGone(): boolean {
    return this.#stream.destroyed || this.#stream.closed;
  }

  sendInterim(head: AnswerHead): void {
    if (this.isGone || this.isBegun) return;
    this.#stream.additionalHeaders({ ...http2Fields(answerFields(head)), ":status": head.status });
  }

  sendHead(head: AnswerHead, isWhole: boolean): void {
    const stream = this.#stream;
    if (this.isGone) return;
    // Node's imitation would send its own trailers, and throw where no caller catches it if they
    // are wrong.
    stream.removeAllListeners("wantTrailers");
    stream.once("wantTrailers", () => this.#sendTrailers());
    const fields = http2Fields(answerFields(head));
    // Node treats 205 as a status without a body, and ends the stream there.
    const isCut = head.status === 205 && !isWhole;
    if (isCut) delete fields["content-length"];
    const endStream = isWhole || isCut;
    stream.respond(
      { ...fields, ":status": head.status },
      { endStream, waitForTrailers: !endStream },
    );
  }

  flush(): void {
    // The head is never held back.
  }

  write(bytes: Buffer): boolean {
    const stream = this.#stream;
    // Node ends some answers by itself: those to HEAD, and those whose status has no body.
    return this.isGone || stream.writableEnded || stream.write(bytes);
  }

  end(trailers: Fields): void {
    this.#trailers = trailers;
    if (!this.isGone && !this.#stream.writableEnded) this.#stream.end();
  }

  breakOff(): void {
    if (!this.isGone) breakOffStream(this.#stream);
  }

  #sendTrailers(): void {
    if (this.isGone) return;
    try {
      this.#stream.sendTrailers(http2Fields(trailerFields(this.#trailers)));
    } catch {
      this.breakOff();
    }
  }
}

function asEntries(pairs: readonly string[]): [string, string][] {
  const entries: [string, string][] = [];
  for (let index = 0; index < pairs.length; index += 2) {
    entries.push([pairs[index] ?? "", pairs[index + 1] ?? ""]);
  }
  return entries;
}
