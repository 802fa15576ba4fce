/**
 * Every answer is parsed alike however it is cut into pieces, and an answer that two readers could
 * read differently is refused.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type AnswerHead, AnswerParser, type AnswerSink } from "./answer-parser.ts";
import { SyntaxFault } from "./http-syntax.ts";

interface Reading {
  readonly method?: string;
  readonly text: string;
  /** `status [body] {trailers}` of each part, `+N` for N bytes that were left, or a part of the fault. */
  readonly seen: string;
  readonly fault?: RegExp;
}

const ok = "HTTP/1.1 200 OK\r\n";
const chunked = `${ok}Transfer-Encoding: chunked\r\n\r\n`;

const sound: readonly Reading[] = [
  { text: `${ok}Content-Length: 2\r\n\r\nhi`, seen: "200 [hi] {}" },
  { text: `${ok}Content-Length: 2\r\n\r\nhi!`, seen: "200 [hi] {} +1" },
  { text: `${ok}Content-Length: 0\r\n\r\nhi`, seen: "200 [] {} +2" },
  { text: `${ok}X: a\t b \t\r\nEmpty:\r\n\r\nuntil the end`, seen: "200 [until the end] {}" },
  { text: "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", seen: "200 [x] {}" },
  { text: "HTTP/1.0 404 \r\n\r\nold", seen: "404 [old] {}" },
  {
    text: `${chunked}2\r\nhi\r\n0a;x="y"\r\n0123456789\r\n0\r\n\r\n`,
    seen: "200 [hi0123456789] {}",
  },
  { text: `${chunked}1\r\nx\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n`, seen: "200 [x] {X-Sum,1,Y,2}" },
  { text: `${chunked}0\r\n\r\nHTTP/1.1 2`, seen: "200 [] {} +10" },
  { method: "HEAD", text: `${ok}Content-Length: 5\r\n\r\nhello`, seen: "200 [] {} +5" },
  { method: "HEAD", text: `${chunked}5\r\nhello\r\n`, seen: "200 [] {} +10" },
  { text: "HTTP/1.1 204 No\r\nContent-Length: 1\r\n\r\nx", seen: "204 [] {} +1" },
  { text: "HTTP/1.1 304 No\r\n\r\n", seen: "304 [] {}" },
  {
    text: `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n${ok}Content-Length: 0\r\n\r\n`,
    seen: "100 103 200 [] {}",
  },
  { text: "HTTP/1.1 101 Now\r\nUpgrade: x\r\n\r\nraw", seen: "101 +3" },
];

const broken: readonly Reading[] = [
  ...[
    `${ok}Content-Length: 1\r\nContent-Length: 1\r\n\r\nx`,
    `${ok}Content-Length: 1\r\ncontent-length: 2\r\n\r\nx`,
    `${ok}Content-Length: 1, 1\r\n\r\nx`,
    `${ok}Content-Length: +1\r\n\r\nx`,
    `${ok}Content-Length: 0x1\r\n\r\nx`,
    `${ok}Content-Length: 1 1\r\n\r\nx`,
    `${ok}Content-Length:\r\n\r\nx`,
    `${ok}Content-Length: 99999999999999999999\r\n\r\nx`,
    `${ok}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    `${ok}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n`,
    `${ok}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n`,
    `${ok}Transfer-Encoding: xchunked\r\n\r\nx`,
    `${ok}Transfer-Encoding: \x0bchunked\r\n\r\nx`,
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    `${ok}X: 1\r\n Content-Length: 1\r\n\r\nx`,
    `${ok}X: 1\r\n\tmore\r\n\r\nx`,
    `${ok} X: 1\r\n\r\nx`,
    `${ok}X : 1\r\n\r\nx`,
    `${ok}X\r\n\r\nx`,
    `${ok}: 1\r\n\r\nx`,
    `${ok}X: 1\rY: 2\r\n\r\nx`,
    `${ok}X: 1\nY: 2\r\n\r\nx`,
    `${ok}X: a\0b\r\n\r\nx`,
    `${ok}X: a\x7fb\r\n\r\nx`,
    `${ok}X\x80: 1\r\n\r\nx`,
    "HTTP/1.1 200 OK\n\nx",
    "\r\nHTTP/1.1 200 OK\r\n\r\nx",
    "HTTP/1.1  200 OK\r\n\r\nx",
    "HTTP/1.1 200OK\r\n\r\nx",
    "HTTP/1.1 099 OK\r\n\r\nx",
    "HTTP/1.1 600 OK\r\n\r\nx",
    "HTTP/1.1 20 OK\r\n\r\nx",
    "HTTP/2.0 200 OK\r\n\r\nx",
    "HTTP/1.1 200 O\rK\r\n\r\nx",
    "ICY 200 OK\r\n\r\nx",
    `${chunked}1\nx\n0\n\n`,
    `${chunked}1 \r\nx\r\n0\r\n\r\n`,
    `${chunked}0x1\r\nx\r\n0\r\n\r\n`,
    `${chunked}-1\r\nx\r\n0\r\n\r\n`,
    `${chunked}\r\nx\r\n0\r\n\r\n`,
    `${chunked}1;\0\r\nx\r\n0\r\n\r\n`,
    `${chunked}fffffffffffffff\r\nx`,
    `${chunked}2\r\nhi!0\r\n\r\n`,
    `${chunked}1\r\nx\r\n0\r\nX : 1\r\n\r\n`,
    `${chunked}1\r\nx\r\n0\r\n X: 1\r\n\r\n`,
  ].map((text) => ({ text, seen: "", fault: /./ })),
  { text: `${ok}Content-Length: 2\r\n\r\nh`, seen: "", fault: /in the middle/ },
  { text: `${chunked}1\r\nx\r\n`, seen: "", fault: /in the middle/ },
  { text: `${ok}X: 1\r\n`, seen: "", fault: /in the middle/ },
  { text: `${ok}X: ${"x".repeat(70_000)}`, seen: "", fault: /too long/ },
  { text: `${chunked}1;${"x".repeat(300)}`, seen: "", fault: /too long/ },
  { text: `${chunked}0\r\nX: ${"x".repeat(70_000)}`, seen: "", fault: /too long/ },
  { text: "HTTP/1.1 103 Hints\r\n\r\n".repeat(33), seen: "", fault: /too many/ },
];

class Recorder implements AnswerSink {
  readonly parts: string[] = [];
  #body = "";

  onInterim(head: AnswerHead): void {
    this.parts.push(String(head.status));
  }
  onHead(head: AnswerHead): void {
    this.parts.push(String(head.status));
  }
  onBody(bytes: Buffer): void {
    this.#body += bytes.toString("latin1");
  }
  onEnd(trailers: { readonly pairs: readonly string[] }): void {
    this.parts.push(`[${this.#body}] {${trailers.pairs.join(",")}}`);
  }
  onUpgrade(head: AnswerHead): void {
    this.parts.push(String(head.status));
  }
}

/** @param pieceBytes How much comes at a time. */
function read({ method = "GET", text }: Reading, pieceBytes: number): string {
  const recorder = new Recorder();
  const parser = new AnswerParser(method, recorder);
  const bytes = Buffer.from(text, "latin1");
  for (let at = 0; at < bytes.length;) {
    const piece = bytes.subarray(at, at + pieceBytes);
    const taken = parser.push(piece);
    at += taken;
    if (taken < piece.length) return `${recorder.parts.join(" ")} +${bytes.length - at}`;
  }
  parser.finish();
  return recorder.parts.join(" ");
}

const piecesBytes = [1, 2, 3, 5, 7, 64, 100_000];

for (const reading of sound) {
  test(`an answer is read: ${JSON.stringify(reading.text.slice(0, 80))} ${reading.method ?? ""}`, () => {
    for (const bytes of piecesBytes) assert.equal(read(reading, bytes), reading.seen, `${bytes}`);
  });
}

for (const reading of broken) {
  test(`an answer is refused: ${JSON.stringify(reading.text.slice(0, 80))}`, () => {
    for (const bytes of piecesBytes) {
      assert.throws(
        () => read(reading, bytes),
        (error) => error instanceof SyntaxFault && reading.fault?.test(error.message) === true,
      );
    }
  });
}
