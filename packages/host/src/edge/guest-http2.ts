/**
 * A connection to a guest's server that speaks only HTTP/2, without TLS (RFC 9113, 3.3): many calls
 * at a time. It is open once the server has sent its settings, so that no request is lost on a
 * server that speaks something else.
 */
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  connect,
  constants,
} from "node:http2";
import type { Duplex } from "node:stream";
import { type Deadline, TorporError } from "@torpor/std";
import type { AnswerHead } from "./answer-parser.ts";
import { contain } from "./containment.ts";
import type { CallEvents, GuestCall } from "./guest-call.ts";
import { type Fields, fieldsOf, isFieldValue, noFields } from "./http-syntax.ts";
import { breakOffStream } from "./http2.ts";
import { interimMax } from "./limits.ts";

/** LIMIT: how long a connection without calls is kept. */
const idleMsMax = 60_000;

/** One session of HTTP/2 with a guest's server. */
export class GuestHttp2 {
  readonly #session: ClientHttp2Session;
  #calls = 0;

  private constructor(session: ClientHttp2Session) {
    this.#session = session;
  }

  /**
   * Opens a session on a connected socket.
   * @throws guest.refused when the server does not answer in HTTP/2 in time
   */
  static async open(socket: Duplex, deadline: Deadline): Promise<GuestHttp2> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const session = connect("http://guest", {
      createConnection: () => socket,
      settings: { enablePush: false },
    });
    const opened = new GuestHttp2(session);
    session.once("remoteSettings", () => resolve());
    session.on("error", reject); // and nobody else's: each call hears of it, too
    session.once("close", reject);
    session.setTimeout(idleMsMax, () => opened.closeIdle());
    try {
      await deadline.race(promise);
      return opened;
    } catch (cause) {
      session.destroy();
      const message = "the server on this port does not answer in HTTP/2";
      throw new TorporError("guest.refused", message, { cause });
    }
  }

  get isAlive(): boolean {
    return !this.#session.closed && !this.#session.destroyed;
  }

  /** Sends a request. @param headers For Node's client, pseudo headers included. */
  send(headers: OutgoingHttpHeaders, hasBody: boolean, events: CallEvents): GuestCall {
    const stream = this.#session.request(headers, { endStream: !hasBody });
    this.#calls += 1;
    stream.once("close", () => (this.#calls -= 1));
    return new Http2Call(stream, events);
  }

  /** Closes the session if it carries no call now. */
  closeIdle(): void {
    if (this.#calls === 0) this.#session.destroy();
  }

  destroy(): void {
    this.#session.destroy();
  }
}

class Http2Call implements GuestCall {
  readonly #stream: ClientHttp2Stream;
  readonly #events: CallEvents;
  #trailers: Fields = noFields;
  #isOver = false;

  constructor(stream: ClientHttp2Stream, events: CallEvents) {
    this.#stream = stream;
    this.#events = events;
    let failure: unknown;
    const on = (name: string, listener: (...given: never[]) => void): void => {
      stream.on(name, (...given: unknown[]) => {
        if (this.#isOver) return;
        contain(
          () => listener(...(given as never[])),
          (cause) => this.#fail(cause),
        );
      });
    };
    let interims = 0;
    const interim = (headers: IncomingHttpHeaders): void => {
      interims += 1;
      if (interims > interimMax) throw new TorporError("guest.refused", "too many interim answers");
      events.onInterim(headOf(headers));
    };
    on("continue", () => interim({ ":status": "100" }));
    on("headers", interim);
    on("response", (headers: IncomingHttpHeaders, flags: number) => {
      events.onHead(headOf(headers), (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0);
    });
    on("trailers", (headers: IncomingHttpHeaders) => (this.#trailers = fieldsIn(headers)));
    on("data", (bytes: Buffer) => events.onBody(bytes));
    on("drain", () => events.onDrain());
    on("end", () => this.#end());
    on("error", (cause: unknown) => (failure = cause));
    on("close", () =>
      this.#fail(failure ?? new TorporError("guest.unreachable", "the guest broke off its answer")),
    );
  }

  write(bytes: Buffer): boolean {
    return this.#isOver || this.#stream.write(bytes);
  }

  end(): void {
    if (!this.#isOver) this.#stream.end();
  }

  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  destroy(): void {
    const wasOver = this.#isOver;
    this.#isOver = true;
    if (!wasOver && !this.#stream.destroyed) breakOffStream(this.#stream);
  }

  /** Node also emits `end` for a stream that was reset. */
  #end(): void {
    const { rstCode, aborted } = this.#stream;
    if (aborted || rstCode !== constants.NGHTTP2_NO_ERROR) return;
    this.#isOver = true;
    this.#events.onEnd(this.#trailers);
  }

  #fail(cause: unknown): void {
    if (this.#isOver) return;
    this.destroy();
    this.#events.onFailed(cause, false);
  }
}

/** @throws guest.refused */
function headOf(headers: IncomingHttpHeaders): AnswerHead {
  const status = Number(headers[":status"]);
  if (!(status >= 100 && status <= 599) || status === 101) {
    throw new TorporError("guest.refused", "the answer of the guest has no proper status");
  }
  return { version: "2", status, reason: "", fields: fieldsIn(headers) };
}

/** @throws guest.refused */
function fieldsIn(headers: IncomingHttpHeaders): Fields {
  const pairs = Object.entries(headers).flatMap(([name, value]) =>
    name.startsWith(":") ? [] : [value ?? []].flat().flatMap((one) => [name, one]),
  );
  if (!pairs.every((text) => isFieldValue(text))) {
    throw new TorporError("guest.refused", "a header of the guest's answer is broken");
  }
  return fieldsOf(pairs);
}
