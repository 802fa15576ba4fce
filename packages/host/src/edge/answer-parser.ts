/**
 * Parses one answer of a guest's HTTP/1 server from the bytes as they arrive: interim answers,
 * head, body, trailers. It holds at most one head or line, whose length is limited, and no body.
 *
 *     head ──1xx──► head                 (a limited number)
 *     head ──101──► upgraded
 *     head ──► length, close, done
 *     head ──► chunk size ──► chunk ──► chunk end ──► chunk size … ──► trailers ──► done
 *
 * It is strict: no bare LF, no folded line, no space before a colon, nothing before the status
 * line. `push` returns how many bytes it took, so that its caller notices what a guest sends after
 * an answer.
 */
import { type Framing, answerFraming } from "./framing.ts";
import { type Fields, SyntaxFault, noFields, parseFields } from "./http-syntax.ts";
import { headBytesMax, interimMax } from "./limits.ts";

/** LIMIT: bytes of a line with the size of a chunk; no server is known to send extensions. */
const chunkLineBytesMax = 256;
/** A number holds 13 hexadecimal digits exactly. */
const chunkLinePattern = /^([0-9a-f]{1,13})(?:[\t ]*;[\t\x20-\x7e\x80-\xff]*)?$/i;
const statusLinePattern = /^HTTP\/(1\.[01]) ([1-5]\d\d)(?: ([^\r\n]*))?$/;
const statusLineStart = "HTTP/1.";
const headEnd = "\r\n\r\n";

/** Status line and header fields of an answer. */
export interface AnswerHead {
  readonly version: string;
  /** 100 to 599. */
  readonly status: number;
  /** May contain characters that no header value may. */
  readonly reason: string;
  readonly fields: Fields;
}

/** The callbacks of `push`, called in the order of the bytes. */
export interface AnswerSink {
  onInterim(head: AnswerHead): void;
  /** @param isWhole The answer has no body and no trailers. */
  onHead(head: AnswerHead, isWhole: boolean): void;
  onBody(bytes: Buffer): void;
  onEnd(trailers: Fields): void;
  onUpgrade(head: AnswerHead): void;
}

type State =
  | "head"
  | "length"
  | "close"
  | "chunkSize"
  | "chunk"
  | "chunkEnd"
  | "trailers"
  | "done"
  | "upgraded";

/** Parses one answer and passes its parts to a sink. */
export class AnswerParser {
  readonly #method: string;
  readonly #sink: AnswerSink;
  #state: State = "head";
  /** Bytes of the body, or of the chunk, that have not arrived. */
  #left = 0;
  #interims = 0;
  #endsByItself = false;
  readonly #held = new HeldBytes();

  /** @param method The method of the request that is answered. */
  constructor(method: string, sink: AnswerSink) {
    this.#method = method;
    this.#sink = sink;
  }

  get isDone(): boolean {
    return this.#state === "done";
  }

  /** Whether the answer's own fields said where it ends. */
  get endsByItself(): boolean {
    return this.#endsByItself;
  }

  /**
   * Parses the next bytes.
   * @returns How many it took: all, unless the answer is over.
   * @throws SyntaxFault
   */
  push(chunk: Buffer): number {
    let at = 0;
    while (at < chunk.length && this.#state !== "done" && this.#state !== "upgraded") {
      at += this.#take(at === 0 ? chunk : chunk.subarray(at));
    }
    return at;
  }

  /** The guest has closed its side. @throws SyntaxFault when the answer is incomplete */
  finish(): void {
    if (this.#state === "done") return;
    if (this.#state !== "close") throw new SyntaxFault("it ends in the middle");
    this.#end(noFields);
  }

  #take(bytes: Buffer): number {
    switch (this.#state) {
      case "head":
        // A server of another protocol may send no line end for a long time.
        if (!this.#held.mayStartWith(bytes, statusLineStart)) throw notHttp();
        return this.#takeText(bytes, headEnd, headBytesMax, (text) => this.#readHead(text));
      case "length":
      case "chunk":
        return this.#takeBody(bytes);
      case "close":
        this.#sink.onBody(bytes);
        return bytes.length;
      case "chunkSize":
        return this.#takeText(bytes, "\r\n", chunkLineBytesMax, (text) => this.#readSize(text));
      case "chunkEnd":
        return this.#takeText(bytes, "\r\n", 2, () => (this.#state = "chunkSize"));
      case "trailers":
        return this.#takeTrailers(bytes);
      case "done":
      case "upgraded":
        break;
    }
    return 0;
  }

  #takeText(bytes: Buffer, end: string, max: number, read: (text: string) => unknown): number {
    const { taken, text } = this.#held.take(bytes, end, max);
    if (text !== undefined) read(text);
    return taken;
  }

  #takeBody(bytes: Buffer): number {
    const taken = Math.min(this.#left, bytes.length);
    this.#left -= taken;
    this.#sink.onBody(taken === bytes.length ? bytes : bytes.subarray(0, taken));
    if (this.#left === 0) {
      if (this.#state === "length") this.#end(noFields);
      else this.#state = "chunkEnd";
    }
    return taken;
  }

  /** Takes either the empty line alone, or fields and then the empty line. */
  #takeTrailers(bytes: Buffer): number {
    if (this.#held.isEmpty && bytes.length >= 2 && bytes[0] === 13 && bytes[1] === 10) {
      this.#end(noFields);
      return 2;
    }
    const end = this.#held.startsWith(bytes, "\r\n") ? "\r\n" : headEnd;
    return this.#takeText(bytes, end, headBytesMax, (text) =>
      this.#end(text === "\r\n" ? noFields : parseFields(text.slice(0, -2))),
    );
  }

  #readHead(text: string): void {
    const lineEnd = text.indexOf("\r\n");
    const match = statusLinePattern.exec(text.slice(0, lineEnd));
    if (match === null) throw notHttp();
    const [, version = "", digits = "", reason = ""] = match;
    const status = Number(digits);
    const fields = parseFields(text.slice(lineEnd + 2, -2));
    const head = { version, status, reason, fields };
    if (status === 101) {
      this.#state = "upgraded";
      this.#sink.onUpgrade(head);
    } else if (status < 200) {
      this.#interims += 1;
      if (this.#interims > interimMax) throw new SyntaxFault("it has too many interim answers");
      this.#sink.onInterim(head);
    } else {
      this.#readFinalHead(head);
    }
  }

  #readFinalHead(head: AnswerHead): void {
    const of = { method: this.#method, status: head.status, version: head.version };
    const { framing, endsByItself } = answerFraming(head.fields, of);
    this.#endsByItself = endsByItself;
    const isWhole = framing.kind === "none" || (framing.kind === "length" && framing.bytes === 0);
    this.#state = isWhole ? "done" : stateOf(framing);
    if (framing.kind === "length") this.#left = framing.bytes;
    this.#sink.onHead(head, isWhole);
    if (isWhole) this.#sink.onEnd(noFields);
  }

  #readSize(text: string): void {
    const match = chunkLinePattern.exec(text.slice(0, -2));
    if (match === null) throw new SyntaxFault("a chunk has no proper size");
    this.#left = Number.parseInt(match[1] ?? "", 16);
    this.#state = this.#left === 0 ? "trailers" : "chunk";
  }

  #end(trailers: Fields): void {
    this.#state = "done";
    this.#sink.onEnd(trailers);
  }
}

function stateOf({ kind }: Framing): State {
  if (kind === "chunked") return "chunkSize";
  return kind === "length" ? "length" : "close";
}

function notHttp(): SyntaxFault {
  return new SyntaxFault("its status line is none of HTTP/1");
}

const nothing = Buffer.alloc(0);

/** The bytes of a line or a head whose end has not arrived. */
class HeldBytes {
  #bytes = nothing;
  #length = 0;

  get isEmpty(): boolean {
    return this.#length === 0;
  }

  /** Whether the held bytes, followed by `bytes`, begin with `text`. */
  startsWith(bytes: Buffer, text: string): boolean {
    return this.#start(bytes, text.length) === text;
  }

  /** Whether they begin with `text`, or may do so once more bytes have arrived. */
  mayStartWith(bytes: Buffer, text: string): boolean {
    return this.#length >= text.length || text.startsWith(this.#start(bytes, text.length));
  }

  #start(bytes: Buffer, length: number): string {
    const held = this.#bytes.toString("latin1", 0, Math.min(this.#length, length));
    return held + bytes.toString("latin1", 0, length - held.length);
  }

  /**
   * @returns The text up to and including `end` once it has arrived, and how many of `bytes` were
   *   used.
   * @throws SyntaxFault when the text is longer than `max`
   */
  take(bytes: Buffer, end: string, max: number): { taken: number; text: string | undefined } {
    const before = this.#length;
    if (before === 0) {
      const at = bytes.indexOf(end, 0, "latin1");
      if (at !== -1 && at + end.length <= max) {
        return { taken: at + end.length, text: bytes.toString("latin1", 0, at + end.length) };
      }
    }
    const room = Math.min(bytes.length, max - before);
    this.#append(bytes, room);
    const from = Math.max(0, before - end.length + 1);
    const at = this.#bytes.subarray(0, this.#length).indexOf(end, from, "latin1");
    if (at === -1) {
      if (this.#length >= max) throw new SyntaxFault("a line or a head of it is too long");
      return { taken: room, text: undefined };
    }
    const length = at + end.length;
    const text = this.#bytes.toString("latin1", 0, length);
    this.#length = 0;
    return { taken: length - before, text };
  }

  #append(bytes: Buffer, count: number): void {
    if (this.#length + count > this.#bytes.length) {
      const grown = Buffer.allocUnsafe(2 * (this.#length + count));
      this.#bytes.copy(grown, 0, 0, this.#length);
      this.#bytes = grown;
    }
    bytes.copy(this.#bytes, this.#length, 0, count);
    this.#length += count;
  }
}
