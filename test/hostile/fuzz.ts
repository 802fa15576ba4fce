/**
 * Random conversations through the edge, of which two readers must have seen the same.
 *
 * A client's bytes are some requests, damaged here and there. Each request that reached the guest must be
 * one that the reader of our own finds in the client's bytes, with the same body, and none of those that
 * are hidden in bodies; and the answers that the client got must be those to its own requests, in order.
 * The other way round a guest's answer is damaged, and the client that comes next must get its own.
 */
import assert from "node:assert/strict";
import type { Duplex } from "node:stream";
import { setImmediate as turn } from "node:timers/promises";
import { type MemoryEdge, fuzzHost, startMemoryEdge } from "./memory-edge.ts";
import { type ReadRequest, readRequests } from "./request-reader.ts";

/** Turns of the event loop that are waited for nothing to happen any more. */
const quietTurns = 6;
/** After so many inputs a new edge is begun with, so that none gets old. */
const inputsPerEdge = 500;

export interface FuzzCounts {
  /** Of the requests in the clients' bytes, and of those that the guest saw. */
  readonly sent: number;
  readonly seen: number;
  /** Answers to undamaged clients, after a damaged one to somebody else. */
  readonly own: number;
}

/** @throws AssertionError with the input */
export async function fuzzEdge(seed: number, inputs: number): Promise<FuzzCounts> {
  const random = new Random(seed);
  const counts = { sent: 0, seen: 0, own: 0 };
  for (let done = 0; done < inputs;) {
    using edge = startMemoryEdge(echo);
    for (let at = 0; at < inputsPerEdge && done < inputs; at += 1, done += 1) {
      if (done % 4 === 3) counts.own += await playGuest(edge, random, done);
      else await playClient(edge, random, done, counts);
    }
  }
  return counts;
}

async function playClient(
  edge: MemoryEdge,
  random: Random,
  input: number,
  counts: { sent: number; seen: number },
): Promise<void> {
  edge.answer = echo;
  edge.requests.length = 0;
  const text = damaged(requestsText(random, input), random, random.below(4));
  const { requests } = readRequests(text, "overlooked");
  const client = edge.connect();
  const seen = collect(client);
  for (const piece of pieces(text, random)) {
    if (!client.destroyed) client.write(piece, "latin1");
    if (random.below(3) === 0) await turn();
  }
  await quiet(() => seen.text.length + edge.requests.length);
  client.destroy();
  const said = requests.map(inWords);
  for (const request of edge.requests) {
    const at = said.indexOf(inWords(request));
    assert.notEqual(at, -1, `${inWords(request)} is in no reading of ${JSON.stringify(text)}`);
    said.splice(at, 1);
    counts.seen += 1;
  }
  counts.sent += requests.length;
  assert.deepEqual(edge.faults, [], JSON.stringify(text));
  const targets = requests.map(({ target }) => pathOf(target));
  checkOrder(seen.text, targets, text);
}

/** The answers name the requests that they are to. */
function checkOrder(seen: string, targets: readonly string[], text: string): void {
  let at = 0;
  for (const [, answered = ""] of seen.matchAll(/X-To: (.*)\r\n/g)) {
    const found = targets.indexOf(answered, at);
    assert.notEqual(found, -1, `an answer to ${answered} came to ${JSON.stringify(text)}`);
    at = found + 1;
  }
}

async function playGuest(edge: MemoryEdge, random: Random, input: number): Promise<number> {
  const answer = damaged(answerText(random, input), random, 1 + random.below(4));
  const behind = random.below(2) === 0 ? "" : damaged(answerText(random, input), random, 1);
  edge.requests.length = 0;
  edge.answer = (line, request) => {
    if (!request.target.startsWith("/first")) return echo(line, request);
    line.write(answer, "latin1");
    if (behind !== "") setImmediate(() => line.destroyed || line.write(behind, "latin1"));
    if (random.below(4) === 0) line.end();
  };
  const method = random.of(["GET", "GET", "HEAD", "POST"]);
  const first = edge.connect();
  first.resume();
  first.write(`${method} /first/${input} HTTP/1.1\r\nHost: ${fuzzHost}\r\n\r\n`);
  await quiet(() => edge.requests.length);
  const second = edge.connect();
  const seen = collect(second);
  second.write(`GET /second/${input} HTTP/1.1\r\nHost: ${fuzzHost}\r\n\r\n`);
  await quiet(() => seen.text.length);
  first.destroy();
  second.destroy();
  assert.match(seen.text, /^HTTP\/1\.1 200 OK\r\n/, JSON.stringify([method, answer, behind]));
  assert.ok(seen.text.endsWith(`to /second/${input}`), JSON.stringify([method, answer, behind]));
  return 1;
}

function echo(line: Duplex, { method, target }: ReadRequest): void {
  const body = method === "HEAD" ? "" : `to ${target}`;
  const length = Buffer.byteLength(`to ${target}`);
  line.write(
    `HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nX-To: ${target}\r\n` +
      `Content-Length: ${length}\r\n\r\n${body}`,
    "latin1",
  );
}

function inWords({ method, target, body }: ReadRequest): string {
  return `${method} ${pathOf(target)} ${JSON.stringify(body)}`;
}

/** A guest is asked with a path also when the edge was asked with a URL. */
function pathOf(target: string): string {
  const url = /^https?:/i.test(target) ? URL.parse(target) : null;
  return url === null ? target : `${url.pathname}${url.search}`;
}

function requestsText(random: Random, input: number): string {
  const count = 1 + random.below(3);
  let text = "";
  for (let at = 0; at < count; at += 1) text += requestText(random, `/${input}/${at}`);
  return text;
}

function requestText(random: Random, target: string): string {
  const method = random.of(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]);
  const hidden = `GET /hidden HTTP/1.1\r\nHost: ${fuzzHost}\r\n\r\n`;
  const body = random.of(["", "hello", hidden, "0\r\n\r\n", hidden + hidden]);
  const framing = random.of(["none", "length", "chunked"]);
  const named = random.of([
    ...["", "", "", "keep-alive", "close", "content-length", "transfer-encoding", "host"],
    ...["upgrade", "Upgrade, content-length", "keep-alive, Transfer-Encoding"],
  ]);
  const lines = [`Host: ${fuzzHost}`];
  if (named !== "") lines.push(`Connection: ${named}`);
  if (named.toLowerCase().startsWith("upgrade")) lines.push("Upgrade: websocket");
  if (random.below(4) === 0) lines.push(random.of(oddLines));
  if (framing === "length") lines.push(`Content-Length: ${body.length}`);
  if (framing === "chunked") lines.push("Transfer-Encoding: chunked");
  const at = random.below(8) === 0 ? `http://${fuzzHost}${target}` : target;
  const head = `${method} ${at} HTTP/1.1\r\n${random.shuffled(lines).join("\r\n")}\r\n\r\n`;
  if (framing === "none") return head;
  return framing === "length" ? head + body : head + chunksOf(body, random);
}

const oddLines = [
  ...["Content-Length: 0", "Content-Length: 5", "Transfer-Encoding: chunked", "Content_Length: 5"],
  ...[
    "Transfer-Encoding: identity",
    "Transfer-Encoding: gzip, chunked",
    "Host: other",
    "TE: trailers",
  ],
  ...["Expect: 100-continue", "X: \t y", "Trailer: Content-Length", "X:", "Cookie: a; b", ": x"],
  ...["Content-Length : 5", " Content-Length: 5", "X: a\r\n b", "Proxy-Connection: keep-alive"],
  ...[
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    "Keep-Alive: timeout=5",
    "Upgrade: h2c",
  ],
];

function answerText(random: Random, input: number): string {
  const body = random.of([
    "",
    "hello",
    `HTTP/1.1 200 OK\r\nX-To: /second/${input}\r\n\r\n`,
    "0\r\n\r\n",
  ]);
  const status = random.of([
    "200 OK",
    "200 OK",
    "204 No",
    "304 Not",
    "100 Go",
    "103 Hint",
    "404 X",
    "101 Up",
  ]);
  const framing = random.of(["length", "chunked", "none", "less", "more"]);
  const lines = ["Keep-Alive: timeout=60"];
  if (random.below(3) === 0) lines.push(random.of(oddLines));
  const off = framing === "less" ? -1 : framing === "more" ? 1 : 0;
  if (framing === "chunked") lines.push("Transfer-Encoding: chunked");
  else if (framing !== "none") lines.push(`Content-Length: ${Math.max(0, body.length + off)}`);
  const head = `HTTP/1.1 ${status}\r\n${random.shuffled(lines).join("\r\n")}\r\n\r\n`;
  return framing === "chunked" ? head + chunksOf(body, random) : head + body;
}

function chunksOf(body: string, random: Random): string {
  let text = "";
  for (let at = 0; at < body.length;) {
    const piece = body.slice(at, at + 1 + random.below(body.length));
    text += `${piece.length.toString(16)}${random.below(8) === 0 ? ";x=y" : ""}\r\n${piece}\r\n`;
    at += piece.length;
  }
  return `${text}0\r\n${random.below(8) === 0 ? "X-Trailer: 1\r\n" : ""}\r\n`;
}

const pieceOf = [
  ...[
    "\r",
    "\n",
    "\r\n",
    "\r\n\r\n",
    " ",
    "\t",
    ":",
    "\0",
    "\x7f",
    "\xff",
    ",",
    ";",
    "0",
    "1",
    "-",
    "+",
  ],
  ...["Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "HTTP/1.1", "HTTP/1.0", "GET "],
];

/** With so many places changed. */
function damaged(text: string, random: Random, times: number): string {
  let result = text;
  for (let count = 0; count < times; count += 1) {
    const at = random.below(result.length + 1);
    const cut = random.of([0, 0, 1, 1, 2, random.below(16)]);
    const put = random.below(3) === 0 ? "" : random.of(pieceOf);
    result = result.slice(0, at) + put + result.slice(at + cut);
  }
  return result;
}

function pieces(text: string, random: Random): readonly string[] {
  if (random.below(2) === 0) return [text];
  const at = random.below(text.length + 1);
  return [text.slice(0, at), text.slice(at)].filter((piece) => piece !== "");
}

function collect(stream: Duplex): { text: string } {
  const seen = { text: "" };
  stream.on("data", (chunk: Buffer) => (seen.text += chunk.toString("latin1")));
  return seen;
}

/** Until `measure` has stood still for some turns of the event loop. */
async function quiet(measure: () => number): Promise<void> {
  let before = -1;
  for (let turns = 0; turns < quietTurns; turns += 1) {
    await turn();
    const now = measure();
    if (now !== before) turns = 0;
    before = now;
  }
}

/** Xorshift, so that a seed says it all. */
class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 1;
  }

  below(limit: number): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return limit === 0 ? 0 : (this.#state >>> 0) % limit;
  }

  of<Item>(items: readonly Item[]): Item {
    return items[this.below(items.length)] as Item;
  }

  shuffled<Item>(items: readonly Item[]): Item[] {
    const result = [...items];
    for (let at = result.length - 1; at > 0; at -= 1) {
      const other = this.below(at + 1);
      [result[at], result[other]] = [result[other] as Item, result[at] as Item];
    }
    return result;
  }
}
