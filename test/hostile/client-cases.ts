/**
 * What clients of HTTP/1 send, byte by byte, how each request is answered, and what the guest saw of it.
 * A row is a case; it is played over TCP and over TLS. `{host}` names a port of the hostile sandbox.
 */

export interface ClientCase {
  readonly name: string;
  readonly text: string;
  /** The status of each answer; "cut" when the connection is closed without another. */
  readonly answers: readonly string[];
  /** `METHOD target body` of each request that reached the guest. */
  readonly seen: readonly string[];
}

const inside = "POST /hidden HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n";
/** As `{host}` would be replaced by. */
export const insideMark = "{inside}";
const headers = "Host: {host}\r\n";
const get = `GET /a HTTP/1.1\r\n${headers}`;
const post = `POST /a HTTP/1.1\r\n${headers}`;
const chunked = "Transfer-Encoding: chunked\r\n";
const chunks = "5\r\nhello\r\n0\r\n\r\n";
const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

const named: readonly ClientCase[] = ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "PUT"].flatMap(
  (method) =>
    [
      "content-length",
      "Content-Length, close",
      "keep-alive, x, CONTENT-LENGTH",
      "transfer-encoding",
      "host",
      "upgrade, content-length",
    ].map((names) => ({
      name: `${method} with a request in its body, and ${names} named by Connection`,
      text:
        `${method} /a HTTP/1.1\r\n${headers}Connection: ${names}\r\n` +
        `Content-Length: {inside.length}\r\n\r\n${insideMark}`,
      answers: ["200"],
      seen: [`${method} /a ${insideMark}`],
    })),
);

/** Heads that could be read in more than one way, or not at all. */
const ambiguous: readonly ClientCase[] = Object.entries({
  "two Hosts": `${get}Host: b\r\n\r\n`,
  "two equal Hosts": `${get}${headers}\r\n`,
  "a Host that is none": "GET /a HTTP/1.1\r\nHost: a/{host}\r\nE2b-Sandbox-Id: x\r\n\r\n",
  "two lengths": `${post}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello`,
  "two lengths that differ": `${post}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello`,
  "a list of lengths": `${post}Content-Length: 5, 5\r\n\r\nhello`,
  "a length with a sign": `${post}Content-Length: +5\r\n\r\nhello`,
  "a length in hexadecimal": `${post}Content-Length: 0x5\r\n\r\nhello`,
  "an empty length": `${post}Content-Length:\r\n\r\nhello`,
  "a length beside a coding": `${post}Content-Length: 5\r\n${chunked}\r\n${chunks}`,
  "a coding beside a length": `${post}${chunked}Content-Length: 5\r\n\r\n${chunks}`,
  "two codings": `${post}${chunked}${chunked}\r\n${chunks}`,
  "a coding behind another": `${post}Transfer-Encoding: gzip, chunked\r\n\r\n${chunks}`,
  "a coding that is not known": `${post}Transfer-Encoding: xchunked\r\n\r\n${chunks}`,
  "a coding that is no coding": `${post}Transfer-Encoding: identity\r\n\r\n${chunks}`,
  "a coding behind a vertical tab": `${post}Transfer-Encoding: \x0bchunked\r\n\r\n${chunks}`,
  "a coding in HTTP/1.0": `${post.replace("1.1", "1.0")}${chunked}\r\n${chunks}`,
  "a folded header": `${get}X: 1\r\n Content-Length: 5\r\n\r\nhello`,
  "a folded coding": `${post}Transfer-Encoding:\r\n chunked\r\n\r\n${chunks}`,
  "a space before a colon": `${post}Content-Length : 5\r\n\r\nhello`,
  "a tab before a colon": `${post}Transfer-Encoding\t: chunked\r\n\r\n${chunks}`,
  "a line without a colon": `${get}Content-Length\r\n\r\n`,
  "a header without a name": `${get}: 5\r\n\r\n`,
  "a CR within a header": `${get}X: 1\rContent-Length: 5\r\n\r\nhello`,
  "a LF that ends a header": `${get}X: 1\nContent-Length: 5\r\n\r\nhello`,
  "a zero byte": `${get}X: a\0b\r\n\r\n`,
  "a zero byte in a name": `${get}X\0: a\r\n\r\n`,
  "a control character": `${get}X: a\x07b\r\n\r\n`,
  "a DEL": `${get}X: a\x7fb\r\n\r\n`,
  "lines that end with LF": get.replaceAll("\r", "") + "\n",
  "a target with a space": `GET /a b HTTP/1.1\r\n${headers}\r\n`,
  "a target with a control character": `GET /a\x01 HTTP/1.1\r\n${headers}\r\n`,
  "no target": `GET  HTTP/1.1\r\n${headers}\r\n`,
  "a target without a slash": `GET a HTTP/1.1\r\n${headers}\r\n`,
  "an asterisk for a target": `GET * HTTP/1.1\r\n${headers}\r\n`,
  "a URL of another host": `GET http://other/a HTTP/1.1\r\n${headers}\r\n`,
  "a URL of another scheme": `GET file:///a HTTP/1.1\r\n${headers}\r\n`,
  "a method that is not known": `GOT /a HTTP/1.1\r\n${headers}\r\n`,
  "a method in small letters": `get /a HTTP/1.1\r\n${headers}\r\n`,
  "half a version": `GET /a HTTP/1\r\n${headers}\r\n`,
  "no Host": "GET /a HTTP/1.1\r\nE2b-Sandbox-Id: x\r\n\r\n",
}).map(([name, text]) => ({ name, text, answers: ["400"], seen: [] }));

const misnamed: readonly ClientCase[] = Object.entries({
  "an id alone": "E2b-Sandbox-Id: {id}\r\n",
  "a port alone": "E2b-Sandbox-Port: 80\r\n",
  "two ids": "E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 80\r\n",
  "an id that is a path": "E2b-Sandbox-Id: ../{id}\r\nE2b-Sandbox-Port: 80\r\n",
  "an id of Object's": "E2b-Sandbox-Id: __proto__\r\nE2b-Sandbox-Port: 80\r\n",
  "a port of zero": "E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 0\r\n",
  "a port that is too large": "E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 65536\r\n",
  "a port in hexadecimal": "E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 0x50\r\n",
}).map(([name, more]) => ({
  name: `${name} to name a sandbox by`,
  text: `GET /a HTTP/1.1\r\nHost: x\r\n${more}\r\n`,
  answers: ["400"],
  seen: [],
}));

const upgrades: readonly ClientCase[] = [
  {
    name: "an upgrade right behind a request",
    text: `${get}\r\nGET /b HTTP/1.1\r\n${headers}${upgrade}\r\n`,
    answers: ["200", "200"],
    seen: ["GET /a ", "GET /b "],
  },
  {
    name: "an upgrade behind a request for the API",
    text: `GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\n${headers}${upgrade}\r\n`,
    answers: ["204", "200"],
    seen: ["GET /b "],
  },
  {
    name: "an upgrade behind a request that is refused",
    text: `${get}Host: b\r\n\r\n${get}${upgrade}\r\n`,
    answers: ["400", "cut"],
    seen: [],
  },
  {
    name: "a request behind one that is refused",
    text: `${post}Transfer-Encoding: identity\r\n\r\n${get}\r\n`,
    answers: ["400", "cut"],
    seen: [],
  },
  {
    name: "three upgrades at once",
    text: `${get}${upgrade}\r\n`.repeat(3),
    answers: ["200", "cut"],
    seen: ["GET /a "],
  },
  {
    name: "an upgrade with a body of a length",
    text: `${post}${upgrade}Content-Length: 5\r\n\r\nhello`,
    answers: ["200"],
    seen: ["POST /a hello"],
  },
  {
    name: "an upgrade with a body in chunks",
    text: `${post}${upgrade}${chunked}\r\n${chunks}`,
    answers: ["200"],
    seen: ["POST /a hello"],
  },
  {
    name: "an upgrade with bytes of a request behind it",
    text: `${get}${upgrade}\r\n${inside}`,
    answers: ["200", "cut"],
    seen: ["GET /a "],
  },
  {
    name: "an upgrade over HTTP/1.0",
    text: `${get.replace("1.1", "1.0")}${upgrade}\r\n`,
    answers: ["200", "cut"],
    seen: ["GET /a "],
  },
  {
    name: "an upgrade to HTTP/2",
    text: `${get}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n`,
    answers: ["200"],
    seen: ["GET /a "],
  },
];

const others: readonly ClientCase[] = [
  { name: "no version", text: `GET /a\r\n${headers}\r\n`, answers: ["505"], seen: [] },
  {
    name: "chunks with a trailer that frames",
    text: `${post}${chunked}\r\n5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n`,
    answers: ["400", "cut"],
    seen: [],
  },
  {
    name: "a chunk without a size",
    text: `${post}${chunked}\r\n5\r\nhello\r\nzz\r\n${inside}`,
    answers: ["400", "cut"],
    seen: [],
  },
  {
    name: "a version of HTTP/2",
    text: `GET /a HTTP/2.0\r\n${headers}\r\n`,
    answers: ["505"],
    seen: [],
  },
  {
    name: "a version of HTTP/0.9",
    text: `GET /a HTTP/0.9\r\n${headers}\r\n`,
    answers: ["505"],
    seen: [],
  },
  {
    name: "a version of HTTP/2 for the API",
    text: "POST /v2/sandboxes HTTP/2.0\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    answers: ["505"],
    seen: [],
  },
  {
    name: "an asterisk",
    text: `OPTIONS * HTTP/1.1\r\n${headers}\r\n`,
    answers: ["200"],
    seen: ["OPTIONS * "],
  },
  {
    name: "a URL of the same host",
    text: `GET http://{host}/a HTTP/1.1\r\n${headers}\r\n`,
    answers: ["200"],
    seen: ["GET /a "],
  },
  {
    name: "a CONNECT",
    text: `CONNECT {host}:80 HTTP/1.1\r\n${headers}\r\n`,
    answers: ["404", "cut"],
    seen: [],
  },
  {
    name: "a body in chunks with extensions and trailers",
    text: `${post}${chunked}\r\n5;a="b"\r\nhello\r\n0;c\r\nX: y\r\n\r\n`,
    answers: ["200"],
    seen: ["POST /a hello"],
  },
  {
    name: "a length with an underscore",
    text: `${post}Content_Length: 9\r\nTransfer_Encoding: chunked\r\n\r\n`,
    answers: ["200"],
    seen: ["POST /a "],
  },
  {
    name: "ten requests at once",
    text: Array.from({ length: 10 }, (_, n) => `GET /${n} HTTP/1.1\r\n${headers}\r\n`).join(""),
    answers: Array.from({ length: 10 }, () => "200"),
    seen: Array.from({ length: 10 }, (_, n) => `GET /${n} `),
  },
  {
    name: "a head that is too long",
    text: `${get}X: ${"x".repeat(70_000)}\r\n\r\n`,
    answers: ["4.."],
    seen: [],
  },
  {
    name: "a request for an unknown sandbox with a request in its body",
    text: `POST /a HTTP/1.1\r\nHost: 80-none.box.localhost\r\nContent-Length: {inside.length}\r\n\r\n${insideMark}`,
    answers: ["502"],
    seen: [],
  },
  { name: "no HTTP", text: "SSH-2.0-x\r\n\r\n", answers: ["400"], seen: [] },
  {
    name: "a hello of TLS",
    text: "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    answers: ["400"],
    seen: [],
  },
];

export const clientCases: readonly ClientCase[] = [
  ...named,
  ...ambiguous,
  ...misnamed,
  ...upgrades,
  ...others,
];

/** What a client goes away in the middle of. */
export const brokenOff: readonly string[] = [
  "",
  "G",
  get,
  `${get}\r\n`,
  `${get}${upgrade}\r\n`,
  `${post}Content-Length: 5\r\n\r\n`,
  `${post}Content-Length: 5\r\n\r\nhe`,
  `${post}${chunked}\r\n5\r\nhe`,
  `${post}${chunked}\r\n5\r\nhello\r\n`,
  `${post}${chunked}\r\nnonsense\r\n`,
  `${post}${chunked}\r\n5\r\nhello!\r\n`,
  `${post}${chunked}\r\nffffffffffffffff\r\nhello`,
  `${get}\r\n${get}\r\n${get}${upgrade}\r\n`,
  `${post}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n`,
];

export function fill(text: string, host: string, id: string): string {
  const hidden = inside.replaceAll("{host}", host);
  return text
    .replaceAll("{host}", host)
    .replaceAll("{id}", id)
    .replaceAll("{inside.length}", String(hidden.length))
    .replaceAll(insideMark, hidden);
}
