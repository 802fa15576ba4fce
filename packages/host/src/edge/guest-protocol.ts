/**
 * What a server in a guest speaks that does not answer in HTTP/1, by the first bytes it sent. Pure; only to
 * say so, and nothing is decided by it but whether HTTP/2 is tried.
 */

import { TorporError } from "@torpor/std";

export const http2Name = "HTTP/2";

/** A server that was asked in HTTP/1 answered in something else. */
export class OtherProtocol extends TorporError {
  readonly spoken: string;

  constructor(spoken: string, cause: unknown) {
    const message = `the server on this port speaks ${spoken}, and was asked in HTTP/1`;
    super("guest.refused", message, { cause });
    this.spoken = spoken;
  }
}

const http2FrameBytes = 9;
/** SETTINGS, which every server sends first, and GOAWAY, from one that knows no request of HTTP/1. */
const http2FirstTypes = [0x04, 0x07];
/** LIMIT: of the first frame; a server has few settings. */
const http2FirstFrameBytesMax = 1_024;
const tlsRecordTypes = [0x15, 0x16];
const greetings: readonly (readonly [RegExp, string])[] = [
  [/^SSH-/, "SSH"],
  [/^-(?:ERR|NOAUTH|DENIED)/, "the protocol of Redis"],
  [/^RFB \d{3}\./, "the protocol of VNC"],
  [/^[2-5]\d\d[ -]/, "a protocol of mail or file transfer"],
  [/^(?:HTTP\/|ICY )/, "another version of HTTP"],
];

/** A noun, or undefined when the bytes are of no protocol that is known here. */
export function protocolOf(first: Buffer): string | undefined {
  if (isHttp2Frame(first)) return http2Name;
  if (tlsRecordTypes.includes(first[0] ?? 0) && first[1] === 3) return "TLS";
  const text = first.toString("latin1", 0, 32);
  return greetings.find(([pattern]) => pattern.test(text))?.[1];
}

/** A frame for the connection as a whole (RFC 9113, 4.1). */
function isHttp2Frame(bytes: Buffer): boolean {
  if (bytes.length < http2FrameBytes) return false;
  return (
    bytes.readUIntBE(0, 3) <= http2FirstFrameBytesMax &&
    http2FirstTypes.includes(bytes.readUInt8(3)) &&
    bytes.readUInt32BE(5) === 0
  );
}
