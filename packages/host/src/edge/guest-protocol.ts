/**
 * Recognises the protocol of a guest's server that does not answer in HTTP/1, by the first bytes it
 * sent. Pure. The result goes into messages, and decides only whether HTTP/2 is tried.
 */

import { TorporError } from "@torpor/std";

/** The name that `protocolOf` has for HTTP/2. */
export const http2Name = "HTTP/2";

/** The error when a server was asked in HTTP/1 and answered in another protocol. */
export class OtherProtocol extends TorporError {
  readonly spoken: string;

  constructor(spoken: string, cause: unknown) {
    const message = `the server on this port speaks ${spoken}, and was asked in HTTP/1`;
    super("guest.refused", message, { cause });
    this.spoken = spoken;
  }
}

const http2FrameBytes = 9;
/**
 * Types of SETTINGS, which every server sends first, and of GOAWAY, from a server that rejects
 * HTTP/1.
 */
const http2FirstTypes = [0x04, 0x07];
/** LIMIT: bytes of the first frame; a server has few settings. */
const http2FirstFrameBytesMax = 1_024;
const tlsRecordTypes = [0x15, 0x16];
const greetings: readonly (readonly [RegExp, string])[] = [
  [/^SSH-/, "SSH"],
  [/^-(?:ERR|NOAUTH|DENIED)/, "the protocol of Redis"],
  [/^RFB \d{3}\./, "the protocol of VNC"],
  [/^[2-5]\d\d[ -]/, "a protocol of mail or file transfer"],
  [/^(?:HTTP\/|ICY )/, "another version of HTTP"],
];

/** The name of the protocol as a noun, or undefined when it is not recognised. */
export function protocolOf(first: Buffer): string | undefined {
  if (isHttp2Frame(first)) return http2Name;
  if (tlsRecordTypes.includes(first[0] ?? 0) && first[1] === 3) return "TLS";
  const text = first.toString("latin1", 0, 32);
  return greetings.find(([pattern]) => pattern.test(text))?.[1];
}

/** Whether the bytes are a frame for the connection as a whole (RFC 9113, 4.1). */
function isHttp2Frame(bytes: Buffer): boolean {
  if (bytes.length < http2FrameBytes) return false;
  return (
    bytes.readUIntBE(0, 3) <= http2FirstFrameBytesMax &&
    http2FirstTypes.includes(bytes.readUInt8(3)) &&
    bytes.readUInt32BE(5) === 0
  );
}
