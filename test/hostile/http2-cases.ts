/**
 * What clients of HTTP/2 send, frame by frame, broken in every way that its own rules name. A row is a case;
 * none is answered in any way but an error of the stream or of the connection, or as a sound request is.
 */

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");
const DATA = 0;
const HEADERS = 1;
const PRIORITY = 2;
const RST = 3;
const SETTINGS = 4;
const PUSH = 5;
const PING = 6;
const GOAWAY = 7;
const WINDOW = 8;
const CONTINUATION = 9;
const END_STREAM = 1;
const END_HEADERS = 4;

function frame(type: number, flags: number, stream: number, payload: Buffer | string = ""): Buffer {
  const bytes = Buffer.from(payload as string, "latin1");
  const head = Buffer.alloc(9);
  head.writeUIntBE(bytes.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, bytes]);
}

/** Literal fields that are not indexed (RFC 7541, 6.2.2); short ones only. */
function block(fields: readonly (readonly [string, string])[]): Buffer {
  return Buffer.concat(
    fields.flatMap(([name, value]) => [
      Buffer.from([0, name.length]),
      Buffer.from(name, "latin1"),
      Buffer.from([value.length]),
      Buffer.from(value, "latin1"),
    ]),
  );
}

type FieldList = readonly (readonly [string, string])[];

function request(host: string, more: FieldList = [], flags = END_STREAM | END_HEADERS): Buffer {
  return frame(
    HEADERS,
    flags,
    1,
    block([
      [":method", "POST"],
      [":scheme", "http"],
      [":path", "/a"],
      [":authority", host],
      ...more,
    ]),
  );
}

const hello = Buffer.concat([preface, frame(SETTINGS, 0, 0)]);

/** Bytes behind the preface and settings. @param host Names a port of the hostile sandbox. */
export const http2Cases: Readonly<Record<string, (host: string) => readonly Buffer[]>> = {
  "a sound request": (host) => [request(host)],
  "a length that is not kept": (host) => [
    request(host, [["content-length", "9"]], END_HEADERS),
    frame(DATA, END_STREAM, 1, "hi"),
  ],
  "two lengths": (host) => [
    request(
      host,
      [
        ["content-length", "2"],
        ["content-length", "3"],
      ],
      END_HEADERS,
    ),
    frame(DATA, END_STREAM, 1, "hi"),
  ],
  "a coding": (host) => [
    request(host, [["transfer-encoding", "chunked"]], END_HEADERS),
    frame(DATA, END_STREAM, 1, "0\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n"),
  ],
  "a Connection": (host) => [request(host, [["connection", "content-length"]])],
  "an Upgrade": (host) => [request(host, [["upgrade", "websocket"]])],
  "a TE": (host) => [request(host, [["te", "gzip"]])],
  "a capital letter": (host) => [request(host, [["X-Capital", "1"]])],
  "a line end in a value": (host) => [request(host, [["x", "1\r\nhost: other"]])],
  "a line end in a name": (host) => [request(host, [["x\r\ny", "1"]])],
  "a zero byte": (host) => [request(host, [["x", "a\0b"]])],
  "a space in a name": (host) => [request(host, [["x y", "1"]])],
  "an empty name": (host) => [request(host, [["", "1"]])],
  "an unknown pseudo header": (host) => [request(host, [[":x", "1"]])],
  "a pseudo header twice": (host) => [request(host, [[":path", "/b"]])],
  "a Host that differs": (host) => [request(host, [["host", "other"]])],
  "a Host twice": (host) => [
    request(host, [
      ["host", host],
      ["host", host],
    ]),
  ],
  "a path with a line end": () => [pseudo({ ":path": "/a HTTP/1.1\r\nX: y" })],
  "a path with a space": () => [pseudo({ ":path": "/a b" })],
  "an empty path": () => [pseudo({ ":path": "" })],
  "no path": () => [pseudo({ ":path": undefined })],
  "no method": () => [pseudo({ ":method": undefined })],
  "a method with a space": () => [pseudo({ ":method": "GET /hidden HTTP/1.1\r\n\r\nGET" })],
  "a method in small letters": () => [pseudo({ ":method": "head" })],
  "a method that is not known": () => [pseudo({ ":method": "GOT" })],
  "a CONNECT": () => [pseudo({ ":method": "CONNECT", ":path": undefined, ":scheme": undefined })],
  "a CONNECT for WebSockets": () => [pseudo({ ":method": "CONNECT", ":protocol": "websocket" })],
  "an authority that is none": () => [pseudo({ ":authority": "a b/c" })],
  "data on no stream": () => [frame(DATA, 0, 0, "x")],
  "data on a stream that is not open": () => [frame(DATA, 0, 5, "x")],
  "headers on stream 0": () => [frame(HEADERS, END_HEADERS, 0, "\x82")],
  "headers on an even stream": () => [frame(HEADERS, END_HEADERS, 2, "\x82")],
  "a broken header block": () => [frame(HEADERS, END_HEADERS, 1, "\xff\xff\xff\xff\xff\xff")],
  "a header block that does not end": (host) => [
    request(host, [], 0),
    ...Array.from({ length: 2_000 }, () =>
      frame(CONTINUATION, 0, 1, block([["x", "y".repeat(100)]])),
    ),
  ],
  "another frame in a header block": (host) => [
    request(host, [], 0),
    frame(PING, 0, 0, "12345678"),
  ],
  "a push": () => [frame(PUSH, END_HEADERS, 1, "\0\0\0\x02\x82")],
  "a stream that depends on itself": () => [frame(PRIORITY, 0, 1, "\0\0\0\x01\x10")],
  "a window of zero": () => [frame(WINDOW, 0, 0, "\0\0\0\0")],
  "a window that is too large": () => [frame(WINDOW, 0, 0, "\x7f\xff\xff\xff")],
  "settings of a wrong size": () => [frame(SETTINGS, 0, 0, "12345")],
  "settings without end": () => Array.from({ length: 5_000 }, () => frame(SETTINGS, 0, 0)),
  "pings without end": () => Array.from({ length: 5_000 }, () => frame(PING, 0, 0, "12345678")),
  "a frame that is too large": () => [Buffer.from("7fffff000000000001", "hex")],
  "a frame of an unknown kind": () => [frame(0xff, 0xff, 1, "x")],
  "a farewell": () => [frame(GOAWAY, 0, 0, "\0\0\0\0\0\0\0\0")],
  "HTTP/1": (host) => [Buffer.from(`GET /a HTTP/1.1\r\nHost: ${host}\r\n\r\n`)],
  "a thousand streams that are reset at once": (host) =>
    Array.from({ length: 1_000 }, (_, at) => {
      const bytes = request(host);
      bytes.writeUInt32BE(2 * at + 1, 5);
      return Buffer.concat([bytes, frame(RST, 0, 2 * at + 1, "\0\0\0\x08")]);
    }),
};

export function http2Bytes(name: string, host: string): Buffer {
  const frames = http2Cases[name]?.(host) ?? [];
  return Buffer.concat([hello, ...frames.map((bytes) => withHost(bytes, host))]);
}

const settings = frame(SETTINGS, 0, 0);
const accepted = frame(SETTINGS, 1, 0);

function answer(fields: FieldList, flags = END_HEADERS): Buffer {
  return frame(HEADERS, flags, 1, block(fields));
}

const sound = answer([[":status", "200"]]);

/** What a guest's server of HTTP/2 sends to a request on stream 1, behind its settings. */
export const http2GuestCases: Readonly<Record<string, readonly Buffer[]>> = {
  "a sound answer": [sound, frame(DATA, END_STREAM, 1, "hi")],
  "no status": [answer([["x", "1"]], END_HEADERS | END_STREAM)],
  "a status of 99": [answer([[":status", "099"]], END_HEADERS | END_STREAM)],
  "a status of 101": [answer([[":status", "101"]], END_HEADERS | END_STREAM)],
  "a status of 600": [answer([[":status", "600"]], END_HEADERS | END_STREAM)],
  "a status of 999": [answer([[":status", "999"]], END_HEADERS | END_STREAM)],
  "a status in letters": [answer([[":status", "abc"]], END_HEADERS | END_STREAM)],
  "two statuses": [
    answer([
      [":status", "200"],
      [":status", "404"],
    ]),
  ],
  "headers that HTTP/2 allows once": [
    answer([
      [":status", "200"],
      ["etag", "a"],
      ["etag", "b"],
      ["location", "a"],
      ["location", "b"],
    ]),
    frame(DATA, END_STREAM, 1, "hi"),
  ],
  "headers of one connection": [
    answer([
      [":status", "200"],
      ["connection", "x"],
      ["keep-alive", "1"],
      ["upgrade", "x"],
    ]),
  ],
  "settings of HTTP/2 as a header": [
    answer(
      [
        [":status", "200"],
        ["http2-settings", "x"],
        ["te", "gzip"],
      ],
      END_HEADERS | END_STREAM,
    ),
  ],
  "a line end in a header": [
    answer([
      [":status", "200"],
      ["x", "1\r\ny: 2"],
    ]),
  ],
  "a name in capitals": [
    answer([
      [":status", "200"],
      ["X", "1"],
    ]),
  ],
  "trailers of one connection": [
    sound,
    answer(
      [
        ["te", "x"],
        ["http2-settings", "x"],
      ],
      END_HEADERS | END_STREAM,
    ),
  ],
  "trailers with a status": [sound, answer([[":status", "200"]], END_HEADERS | END_STREAM)],
  "trailers that frame and lead": [
    sound,
    answer(
      [
        ["content-length", "9"],
        ["host", "x"],
      ],
      END_HEADERS | END_STREAM,
    ),
  ],
  "trailers and then data": [
    sound,
    answer([["x", "1"]], END_HEADERS | END_STREAM),
    frame(DATA, 0, 1, "hi"),
  ],
  "interim answers without end": Array.from({ length: 1_000 }, () => answer([[":status", "103"]])),
  "a length that is not kept": [
    answer([
      [":status", "200"],
      ["content-length", "9"],
    ]),
    frame(DATA, END_STREAM, 1, "hi"),
  ],
  "data before a head": [frame(DATA, END_STREAM, 1, "hi")],
  "data on no stream": [frame(DATA, 0, 0, "hi")],
  "data on another stream": [frame(DATA, 0, 3, "hi")],
  "a push": [frame(PUSH, END_HEADERS, 1, "\0\0\0\x02\x82")],
  "a request": [frame(HEADERS, END_HEADERS, 2, "\x82")],
  "a reset with no error": [sound, frame(RST, 0, 1, "\0\0\0\0")],
  "a reset": [sound, frame(RST, 0, 1, "\0\0\0\x02")],
  "a reset without an answer": [frame(RST, 0, 1, "\0\0\0\x07")],
  "a farewell": [frame(GOAWAY, 0, 0, "\0\0\0\0\0\0\0\x02")],
  "a broken header block": [frame(HEADERS, END_HEADERS, 1, "\xff\xff\xff\xff\xff")],
  "a window of zero": [frame(WINDOW, 0, 0, "\0\0\0\0")],
  "settings of a wrong size": [frame(SETTINGS, 0, 0, "12345")],
  "settings that allow no stream": [frame(SETTINGS, 0, 0, "\0\x03\0\0\0\0"), sound],
  "settings that allow no window": [frame(SETTINGS, 0, 0, "\0\x04\0\0\0\0"), sound],
  "settings without end": Array.from({ length: 5_000 }, () => settings),
  "pings without end": Array.from({ length: 5_000 }, () => frame(PING, 0, 0, "12345678")),
  "a frame that is too large": [Buffer.from("7fffff000000000001", "hex")],
  "HTTP/1": [Buffer.from("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")],
  "nothing more": [],
};

export function http2GuestBytes(name: string): Buffer {
  return Buffer.concat([settings, accepted, ...(http2GuestCases[name] ?? [])]);
}

const hostMark = "host-goes-here";

function withHost(bytes: Buffer, host: string): Buffer {
  const at = bytes.indexOf(hostMark, 0, "latin1");
  if (at === -1) return bytes;
  const named = Buffer.from(host, "latin1");
  const result = Buffer.concat([
    bytes.subarray(0, at - 1),
    Buffer.from([named.length]),
    named,
    bytes.subarray(at + hostMark.length),
  ]);
  result.writeUIntBE(result.length - 9, 0, 3);
  return result;
}

function pseudo(changed: Readonly<Record<string, string | undefined>>): Buffer {
  const all = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/a",
    ":authority": hostMark,
    ...changed,
  };
  const fields = Object.entries(all).flatMap(([name, value]) =>
    value === undefined ? [] : [[name, value] as const],
  );
  return frame(HEADERS, END_STREAM | END_HEADERS, 1, block(fields));
}
