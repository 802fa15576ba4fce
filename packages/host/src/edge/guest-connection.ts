/**
 * A connection to a guest's HTTP/1 server: one call at a time, and no bytes between two calls.
 *
 * It is reused only when both sides of the last call ended exactly where framing says: the request
 * was sent completely before the answer was over, the answer itself said where it ends, no byte
 * followed it, and none arrives while the connection is idle. In every other case it is destroyed.
 * So no guest, by fault or on purpose, answers one client with another client's data.
 */
import type { Duplex } from "node:stream";
import { TorporError } from "@torpor/std";
import { type AnswerHead, AnswerParser, type AnswerSink } from "./answer-parser.ts";
import type { CallEvents, GuestCall, GuestRequest } from "./guest-call.ts";
import { OtherProtocol, protocolOf } from "./guest-protocol.ts";
import { type Fields, SyntaxFault, listOf, valueOf } from "./http-syntax.ts";

/** How long before the guest closes a connection the edge stops using it. */
const closingMarginMs = 1_000;
/** LIMIT: how long an idle connection is kept, whatever the guest's server promises. */
const idleMsMax = 60_000;

/** One connection, for one call after another. */
export class GuestConnection {
  readonly #socket: Duplex;
  readonly #onReusable: (connection: GuestConnection, idleMs: number) => void;
  #call: Http1Call | undefined;
  #failure: unknown;
  #calls = 0;

  /** @param onReusable Called when another call may be sent, within `idleMs`. */
  constructor(socket: Duplex, onReusable: (connection: GuestConnection, idleMs: number) => void) {
    this.#socket = socket;
    this.#onReusable = onReusable;
    socket.on("data", this.#onData);
    socket.on("end", this.#onEnd);
    socket.on("drain", this.#onDrain);
    socket.on("error", this.#onError);
    socket.on("close", this.#onClose);
  }

  get isAlive(): boolean {
    return !this.#socket.destroyed && this.#socket.writable;
  }

  /** Sends a request. Never throws: failures go to `events`. */
  send(request: GuestRequest, events: CallEvents): GuestCall {
    this.#calls += 1;
    const call = new Http1Call(request, events, {
      socket: this.#socket,
      isReused: this.#calls > 1,
      release: (idleMs) => this.#release(idleMs),
      handOver: () => this.#handOver(),
    });
    this.#call = call;
    call.start();
    return call;
  }

  destroy(): void {
    this.#call = undefined;
    this.#socket.destroy();
  }

  #release(idleMs: number | undefined): void {
    this.#call = undefined;
    if (idleMs === undefined) this.#socket.destroy();
    else this.#onReusable(this, idleMs);
  }

  #handOver(): void {
    this.#call = undefined;
    const socket = this.#socket;
    socket.off("data", this.#onData);
    socket.off("end", this.#onEnd);
    socket.off("drain", this.#onDrain);
    socket.off("error", this.#onError);
    socket.off("close", this.#onClose);
  }

  readonly #onData = (chunk: Buffer): void => {
    if (this.#call === undefined) this.#socket.destroy();
    else this.#call.take(chunk);
  };

  readonly #onEnd = (): void => {
    this.#call?.finish();
    this.#socket.destroy();
  };

  readonly #onDrain = (): void => this.#call?.drained();

  readonly #onError = (cause: unknown): void => {
    this.#failure = cause;
    this.#socket.destroy();
  };

  readonly #onClose = (): void => {
    const failure = this.#failure;
    this.#call?.fail(failure ?? new TorporError("guest.unreachable", closedMessage));
  };
}

const closedMessage = "the guest closed without an answer";

interface Line {
  readonly socket: Duplex;
  readonly isReused: boolean;
  /**
   * The call is over.
   * @param idleMs For how long the connection may be reused; undefined: not at all.
   */
  readonly release: (idleMs: number | undefined) => void;
  /** The connection no longer carries HTTP. */
  readonly handOver: () => void;
}

/** Never throws: an error that an event's receiver throws ends the call like any other failure. */
class Http1Call implements GuestCall, AnswerSink {
  readonly #request: GuestRequest;
  readonly #events: CallEvents;
  readonly #line: Line;
  readonly #parser: AnswerParser;
  #head: AnswerHead | undefined;
  #upgrade: AnswerHead | undefined;
  #trailers: Fields | undefined;
  #isSent = false;
  /** Bytes of the body. */
  #sentBytes = 0;
  #hasHeard = false;
  #isOver = false;

  constructor(request: GuestRequest, events: CallEvents, line: Line) {
    this.#request = request;
    this.#events = events;
    this.#line = line;
    this.#parser = new AnswerParser(request.method, this);
  }

  start(): void {
    const { socket } = this.#line;
    const hasBody = this.#request.framing.kind !== "none";
    // Head and first bytes go out together, if they arrive together.
    if (hasBody) {
      socket.cork();
      setImmediate(() => socket.uncork());
    }
    socket.write(headText(this.#request), "latin1");
    if (!hasBody) this.#isSent = true;
    socket.resume();
  }

  write(bytes: Buffer): boolean {
    const { framing } = this.#request;
    if (this.#isOver || bytes.length === 0) return true;
    this.#sentBytes += bytes.length;
    const { socket } = this.#line;
    if (framing.kind === "chunked") {
      socket.cork();
      socket.write(`${bytes.length.toString(16)}\r\n`, "latin1");
      socket.write(bytes);
      const isTaken = socket.write("\r\n", "latin1");
      socket.uncork();
      return isTaken;
    }
    if (framing.kind === "length" && this.#sentBytes <= framing.bytes) return socket.write(bytes);
    this.fail(new TorporError("internal", "a request's body is longer than was said"));
    return true;
  }

  end(): void {
    const { framing } = this.#request;
    if (this.#isOver || this.#isSent) return;
    if (framing.kind === "length" && this.#sentBytes !== framing.bytes) {
      this.fail(new TorporError("internal", "a request's body is shorter than was said"));
      return;
    }
    this.#isSent = true;
    if (framing.kind === "chunked") this.#line.socket.write("0\r\n\r\n", "latin1");
  }

  pause(): void {
    if (!this.#isOver) this.#line.socket.pause();
  }

  resume(): void {
    if (!this.#isOver) this.#line.socket.resume();
  }

  destroy(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#line.release(undefined);
  }

  take(chunk: Buffer): void {
    const isFirst = !this.#hasHeard;
    this.#hasHeard = true;
    try {
      const taken = this.#parser.push(chunk);
      if (this.#isOver) return;
      if (this.#upgrade !== undefined) this.#leave(this.#upgrade, chunk.subarray(taken));
      else if (this.#trailers !== undefined) this.#finish(this.#trailers, taken < chunk.length);
    } catch (cause) {
      this.fail(isFirst ? this.#explained(cause, chunk) : cause);
    }
  }

  /** The guest has closed its side. */
  finish(): void {
    if (this.#isOver || !this.#hasHeard) return;
    try {
      this.#parser.finish();
      if (this.#trailers !== undefined) this.#finish(this.#trailers, true);
    } catch (cause) {
      this.fail(cause);
    }
  }

  drained(): void {
    this.#guarded(() => this.#events.onDrain());
  }

  fail(cause: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#line.release(undefined);
    const told =
      cause instanceof SyntaxFault
        ? new TorporError("guest.refused", `the answer of the guest is broken: ${cause.message}`)
        : cause;
    this.#events.onFailed(told, this.#line.isReused && !this.#hasHeard);
  }

  onInterim(head: AnswerHead): void {
    this.#events.onInterim(head);
  }

  onHead(head: AnswerHead, isWhole: boolean): void {
    this.#head = head;
    this.#events.onHead(head, isWhole);
  }

  onBody(bytes: Buffer): void {
    if (!this.#isOver) this.#events.onBody(bytes);
  }

  /** Bytes after the answer are known only when the parser returns. */
  onEnd(trailers: Fields): void {
    this.#trailers = trailers;
  }

  onUpgrade(head: AnswerHead): void {
    const isAgreed = listOf(head.fields, "connection").includes("upgrade");
    if (!this.#request.mayUpgrade || !isAgreed) {
      throw new SyntaxFault("it changes protocols, which nobody asked for");
    }
    this.#upgrade = head;
  }

  #finish(trailers: Fields, hasSurplus: boolean): void {
    const idleMs = hasSurplus || !this.#isSent ? undefined : this.#idleMs();
    this.#isOver = true;
    this.#line.release(idleMs);
    this.#events.onEnd(trailers);
  }

  #leave(head: AnswerHead, first: Buffer): void {
    this.#isOver = true;
    this.#line.socket.pause();
    this.#line.handOver();
    this.#events.onUpgraded(head, this.#line.socket, first);
  }

  /**
   * For how long the guest's server keeps the connection, in milliseconds; undefined if it does not
   * say.
   */
  #idleMs(): number | undefined {
    const head = this.#head;
    if (head === undefined || head.version !== "1.1" || !this.#parser.endsByItself)
      return undefined;
    if (listOf(head.fields, "connection").includes("close")) return undefined;
    const said = valueOf(head.fields, "keep-alive");
    if (said === undefined) return undefined;
    const [, seconds] = /(?:^|[,\s])timeout\s*=\s*"?(\d{1,9})/i.exec(said) ?? [];
    const idleMs = seconds === undefined ? idleMsMax : 1_000 * Number(seconds) - closingMarginMs;
    return idleMs > 0 ? Math.min(idleMs, idleMsMax) : undefined;
  }

  #explained(cause: unknown, chunk: Buffer): unknown {
    const spoken = cause instanceof SyntaxFault ? protocolOf(chunk) : undefined;
    return spoken === undefined ? cause : new OtherProtocol(spoken, cause);
  }

  #guarded(work: () => void): void {
    try {
      if (!this.#isOver) work();
    } catch (cause) {
      this.fail(cause);
    }
  }
}

function headText({ method, path, fields }: GuestRequest): string {
  let text = `${method} ${path} HTTP/1.1\r\n`;
  for (let index = 0; index < fields.length; index += 2) {
    text += `${fields[index]}: ${fields[index + 1]}\r\n`;
  }
  return `${text}\r\n`;
}
