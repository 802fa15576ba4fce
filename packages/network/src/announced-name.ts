/**
 * The name that a connection announces: the server name of a TLS ClientHello (RFC 8446, RFC 6066),
 * or the Host of an HTTP/1 request. It is read from the first bytes that a guest sends, so every
 * length is checked against the bytes that are there.
 */

/** LIMIT: bytes examined for a name. A ClientHello with post-quantum keys is near 2 KiB. */
export const announcementBytesMax = 16 * 1024;

/**
 * A name in lower case. Undefined: more bytes are needed. Null: the bytes announce no name, or are
 * malformed.
 */
export type AnnouncedName = string | null | undefined;

const recordHandshake = 22;
const recordHeaderBytes = 5;
const handshakeClientHello = 1;
const handshakeHeaderBytes = 4;
const extensionServerName = 0;
const nameTypeHost = 0;

/** Reads the server name from the first bytes of a TLS connection. */
export function tlsServerName(bytes: Buffer): AnnouncedName {
  const hello = clientHello(bytes);
  if (hello === undefined || hello === null) return hello;
  try {
    return serverNameOf(new Reader(hello));
  } catch (error) {
    if (error instanceof RangeError) return null; // a length that leads beyond the end
    throw error;
  }
}

/** Returns the body of the first handshake message, which may be spread over several records. */
function clientHello(bytes: Buffer): Buffer | null | undefined {
  const parts: Buffer[] = [];
  let have = 0;
  for (let at = 0; at + recordHeaderBytes <= bytes.length;) {
    if (bytes.readUInt8(at) !== recordHandshake || bytes.readUInt8(at + 1) !== 3) return null;
    const length = bytes.readUInt16BE(at + 3);
    if (length === 0) return null;
    const part = bytes.subarray(at + recordHeaderBytes, at + recordHeaderBytes + length);
    parts.push(part);
    have += part.length;
    at += recordHeaderBytes + length;
    if (have < handshakeHeaderBytes) continue;
    const message = Buffer.concat(parts);
    if (message.readUInt8(0) !== handshakeClientHello) return null;
    const end = handshakeHeaderBytes + message.readUIntBE(1, 3);
    if (end > announcementBytesMax) return null;
    if (have >= end) return message.subarray(handshakeHeaderBytes, end);
  }
  return bytes.length > 0 && bytes.readUInt8(0) !== recordHandshake ? null : undefined;
}

function serverNameOf(hello: Reader): string | null {
  hello.skip(2 + 32); // version, random
  hello.skip(hello.number(1)); // session
  hello.skip(hello.number(2)); // cipher suites
  hello.skip(hello.number(1)); // compression
  const extensions = hello.part(hello.number(2));
  while (extensions.left > 0) {
    const type = extensions.number(2);
    const body = extensions.part(extensions.number(2));
    if (type !== extensionServerName) continue;
    const names = body.part(body.number(2));
    if (names.number(1) !== nameTypeHost) return null;
    return validName(names.bytes(names.number(2)).toString("latin1"));
  }
  return null;
}

/**
 * Reads a buffer from front to back.
 * @throws RangeError from every method for a length beyond the end.
 */
class Reader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  number(length: number): number {
    const value = this.#bytes.readUIntBE(this.#at, length);
    this.#at += length;
    return value;
  }

  bytes(length: number): Buffer {
    if (length > this.left) throw new RangeError("beyond the end");
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  part(length: number): Reader {
    return new Reader(this.bytes(length));
  }

  skip(length: number): void {
    this.bytes(length);
  }
}

/**
 * Reads the Host of the first request. A second Host field gives null, because servers differ in
 * which one they believe.
 */
export function httpHost(bytes: Buffer): AnnouncedName {
  const text = bytes.toString("latin1");
  const end = text.indexOf("\r\n\r\n");
  if (end === -1) {
    const looksRight = /^[A-Z]{0,32}(?: |$)/.test(text);
    return looksRight ? undefined : null;
  }
  const [request = "", ...fields] = text.slice(0, end).split("\r\n");
  if (!/^[A-Z]+ \S+ HTTP\/1\.[01]$/.test(request)) return null;
  const hosts = fields.filter((field) => /^host\s*:/i.test(field));
  const [host = ""] = hosts.map((field) => field.slice(field.indexOf(":") + 1).trim());
  return hosts.length === 1 ? validName(host.replace(/:\d+$/, "")) : null;
}

function validName(name: string): string | null {
  return /^[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9])?$/i.test(name) ? name.toLowerCase() : null;
}
