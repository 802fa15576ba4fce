/**
 * What a guest's server sends for an answer, byte by byte, and what a client sees of it: by HTTP/1.1, by
 * HTTP/2, and when it asked for a WebSocket. A row is a case.
 */

export interface GuestCase {
  readonly name: string;
  readonly answer: string;
  /** `status body`; "broken" behind the status when the answer breaks off. */
  readonly http1: string;
  /** The same unless it is said. */
  readonly http2?: string;
  /** What a client sees that asked for an upgrade, when it is something else. */
  readonly upgrade?: string;
}

const ok = "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\n";
const sized = `${ok}Content-Length: 2\r\n`;
const chunked = `${ok}Transfer-Encoding: chunked\r\n`;

const fine: readonly GuestCase[] = Object.entries({
  "a control character in the reason": "HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\nhi",
  "a DEL in the reason": "HTTP/1.1 200 \x7f\r\nContent-Length: 2\r\n\r\nhi",
  "a reason in Latin-1": "HTTP/1.1 200 \xe8\r\nContent-Length: 2\r\n\r\nhi",
  "no reason": "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi",
  "a long reason": `HTTP/1.1 200 ${"x".repeat(60_000)}\r\nContent-Length: 2\r\n\r\nhi`,
  "half an answer behind it": `${sized}\r\nhiHTTP/1.1 200 OK\r\nContent-Le`,
  "an answer behind it": `${sized}\r\nhi${sized}\r\nno`,
  "a length named by Connection": `${ok}Connection: content-length\r\nContent-Length: 2\r\n\r\nhi`,
  "a coding named by Connection": `${chunked}Connection: transfer-encoding\r\n\r\n2\r\nhi\r\n0\r\n\r\n`,
  trailers: `${chunked}\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n`,
  "trailers that frame and lead": `${chunked}\r\n2\r\nhi\r\n0\r\nContent-Length: 9\r\nHost: a\r\nSet-Cookie: a\r\n\r\n`,
  "trailers of one connection":
    `${chunked}\r\n2\r\nhi\r\n0\r\nConnection: a\r\nTE: a\r\nKeep-Alive: a\r\nUpgrade: a\r\n` +
    "Proxy-Connection: a\r\nHTTP2-Settings: a\r\nTransfer-Encoding: a\r\n\r\n",
  "headers of HTTP/2's": `${sized}HTTP2-Settings: a\r\nProxy-Connection: a\r\nTE: gzip\r\n\r\nhi`,
  "headers with names of Object's": `${sized}__proto__: a\r\nconstructor: b\r\ntoString: c\r\n\r\nhi`,
  "many Set-Cookies": `${sized}${"Set-Cookie: a=b\r\n".repeat(90)}\r\nhi`,
  ...Object.fromEntries(
    [
      ...["ETag", "Location", "Date", "Content-Type", "Content-Encoding", "Content-Range", "Age"],
      ...["Expires", "Last-Modified", "Retry-After", "Server", "Vary", "Access-Control-Max-Age"],
      ...["Access-Control-Allow-Credentials", "X-Content-Type-Options", "User-Agent", "Host"],
      ...["Authorization", "Cookie", "Referer", "From", "Range", "TK", "DNT", "Max-Forwards"],
    ].map((name) => [`two ${name} headers`, `${sized}${name}: 1\r\n${name}: 2\r\n\r\nhi`]),
  ),
  "interim answers": `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 A\r\n\r\nHTTP/1.1 103 B\r\nLink: x\r\nConnection: y\r\nContent-Length: 9\r\n\r\n${sized}\r\nhi`,
  "interim answers with forbidden characters": `HTTP/1.1 103 \x01\r\nHTTP2-Settings: x\r\n\r\n${sized}\r\nhi`,
}).map(([name, answer]) => ({ name, answer, http1: "200 hi" }));

const refused: readonly GuestCase[] = Object.entries({
  "two lengths": `${sized}Content-Length: 2\r\n\r\nhi`,
  "two lengths that differ": `${sized}Content-Length: 3\r\n\r\nhi`,
  "a length beside a coding": `${chunked}Content-Length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n`,
  "a coding that is not known": `${ok}Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n`,
  "a length that is none": `${ok}Content-Length: -2\r\n\r\nhi`,
  "a folded header": `${ok}X: 1\r\n Content-Length: 2\r\n\r\nhi`,
  "a space before a colon": `${ok}Content-Length : 2\r\n\r\nhi`,
  "a CR within a header": `${ok}X: 1\rY: 2\r\n\r\nhi`,
  "a LF that ends a header": `${ok}X: 1\nContent-Length: 2\r\n\r\nhi`,
  "a zero byte in a header": `${ok}X: \0\r\nContent-Length: 2\r\n\r\nhi`,
  "lines that end with LF": "HTTP/1.1 200 OK\n\nhi",
  "a status of 99": "HTTP/1.1 099 X\r\nContent-Length: 2\r\n\r\nhi",
  "a status of 600": "HTTP/1.1 600 X\r\nContent-Length: 2\r\n\r\nhi",
  "a status of 1000": "HTTP/1.1 1000 X\r\nContent-Length: 2\r\n\r\nhi",
  "another version": "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
  "no head": "hi",
  "a greeting of SSH": "SSH-2.0-x\r\n",
  "a frame of HTTP/2": "\0\0\0\x04\0\0\0\0\0",
  "a record of TLS": "\x15\x03\x01\0\x02\x02\x28",
  "a head without end": `${ok}X: ${"x".repeat(70_000)}`,
  "interim answers without end": "HTTP/1.1 103 X\r\n\r\n".repeat(1_000),
  "another protocol, unasked, without saying so": "HTTP/1.1 101 X\r\n\r\nhi",
}).map(([name, answer]) => ({ name, answer, http1: "502" }));

const broken: readonly GuestCase[] = Object.entries({
  "a body that is too short": `${ok}Content-Length: 9\r\n\r\nhi`,
  "chunks that do not end": `${chunked}\r\n2\r\nhi\r\n`,
  "a chunk without a size": `${chunked}\r\n2\r\nhi\r\nx\r\n`,
  "a chunk that is too long": `${chunked}\r\n2\r\nhi!\r\n0\r\n\r\n`,
  "a chunk of a size beyond all numbers": `${chunked}\r\n2\r\nhi\r\nffffffffffffffffff\r\n`,
  "lines of chunks that end with LF": `${chunked}\r\n2\r\nhi\r\n0\n\n`,
  "a broken trailer": `${chunked}\r\n2\r\nhi\r\n0\r\nX : 1\r\n\r\n`,
  "a trailer without end": `${chunked}\r\n2\r\nhi\r\n0\r\nX: ${"x".repeat(70_000)}`,
}).map(([name, answer]) => ({ name, answer, http1: "200 broken|cut.*" }));

const upgrades: readonly GuestCase[] = [
  {
    name: "another protocol",
    answer:
      "HTTP/1.1 101 \x01\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 9\r\n\r\nhi",
    http1: "502",
    upgrade: "101 hi",
  },
  {
    name: "another protocol, twice",
    answer:
      "HTTP/1.1 101 A\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" +
      "HTTP/1.1 101 A\r\nConnection: upgrade\r\n\r\n",
    http1: "502",
    upgrade: "101 HTTP/1.1 101 A\r\nConnection: upgrade\r\n\r\n",
  },
  {
    name: "frames of a WebSocket that lie about their length",
    answer:
      "HTTP/1.1 101 A\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" +
      "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    http1: "502",
    upgrade: "101 \x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff",
  },
];

const others: readonly GuestCase[] = [
  { name: "nothing", answer: "", http1: "502" },
  { name: "until the end", answer: "HTTP/1.1 200 OK\r\n\r\nhi", http1: "200 hi" },
  { name: "HTTP/1.0", answer: "HTTP/1.0 200 OK\r\n\r\nhi", http1: "200 hi" },
  {
    name: "a body with 204",
    answer: "HTTP/1.1 204 X\r\nContent-Length: 2\r\n\r\nhi",
    http1: "204 ",
  },
  {
    name: "a body with 304",
    answer: "HTTP/1.1 304 X\r\nContent-Length: 2\r\n\r\nhi",
    http1: "304 ",
  },
  {
    name: "a body with 205",
    answer: "HTTP/1.1 205 X\r\nContent-Length: 2\r\n\r\nhi",
    http1: "205 hi",
    http2: "205 ",
  },
  {
    name: "a head that HTTP/2 has no room for",
    answer: `${sized}${Array.from({ length: 60 }, (_, n) => `X-${n}: ${"\x7f".repeat(0)}${"~".repeat(1_000)}\r\n`).join("")}\r\nhi`,
    http1: "200 hi",
    http2: "200 hi|.*broken",
  },
];

export const guestCases: readonly GuestCase[] = [
  ...fine,
  ...refused,
  ...broken,
  ...upgrades,
  ...others,
];
