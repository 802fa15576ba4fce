/**
 * DNS messages, as far as a resolver of names to IPv4 addresses needs them (RFC 1035).
 *
 * Questions come from a guest: everything is checked before it is read, nothing is read twice, and
 * compressed names, which no question needs, are refused.
 */
import { parseAddress } from "./address-range.ts";

/** LIMIT: size of a message over UDP; answers that would not fit are left out. */
export const messageBytesMax = 512;
const headerBytes = 12;
const labelBytesMax = 63;
const nameBytesMax = 255;
/**
 * Size of one answer: a pointer to the question's name, type, class, time to live, length, address.
 */
const answerBytes = 16;
const classInternet = 1;

/** Numbers of the record types that the name server knows. */
export const recordType = { a: 1, aaaa: 28, https: 65 } as const;
/** DNS response codes (RFC 1035, section 4.1.1). */
export const responseCode = {
  ok: 0,
  formatError: 1,
  serverFailure: 2,
  noName: 3,
  notImplemented: 4,
  refused: 5,
} as const;

/** One of the numbers in `responseCode`. */
export type ResponseCode = (typeof responseCode)[keyof typeof responseCode];

/** The one question of a DNS query. */
export interface Question {
  readonly id: number;
  readonly recursionDesired: boolean;
  /** Without a trailing dot. */
  readonly name: string;
  /** The record type asked for, such as `recordType.a`. */
  readonly type: number;
  /** The question section as received, to be echoed in the response. */
  readonly bytes: Buffer;
}

/** One IPv4 address to answer with. */
export interface Answer {
  readonly address: string;
  readonly ttlSeconds: number;
}

/**
 * Parses a query. Returns undefined for anything but one question of class Internet; such messages
 * need no response.
 */
export function parseQuestion(message: Buffer): Question | undefined {
  if (message.length < headerBytes || message.length > messageBytesMax) return undefined;
  const flags = message.readUInt16BE(2);
  const isStandardQuery = (flags & 0xf800) === 0;
  if (!isStandardQuery || message.readUInt16BE(4) !== 1) return undefined;
  const labels: string[] = [];
  let at = headerBytes;
  for (;;) {
    const length = message[at];
    if (length === undefined || length > labelBytesMax) return undefined;
    at += 1;
    if (length === 0) break;
    const label = message.subarray(at, at + length);
    // A dot inside a label would be read as two labels.
    if (label.length < length || !/^[\x21-\x2d\x2f-\x7e]+$/.test(label.toString("latin1"))) {
      return undefined;
    }
    labels.push(label.toString("latin1"));
    at += length;
    if (at - headerBytes > nameBytesMax) return undefined;
  }
  if (at + 4 > message.length || message.readUInt16BE(at + 2) !== classInternet) return undefined;
  return {
    id: message.readUInt16BE(0),
    recursionDesired: (flags & 0x0100) !== 0,
    name: labels.join("."),
    type: message.readUInt16BE(at),
    bytes: message.subarray(headerBytes, at + 4),
  };
}

/** Encodes the response to `question`, with as many answers as fit into `messageBytesMax`. */
export function encodeAnswer(
  question: Question,
  code: ResponseCode,
  answers: readonly Answer[] = [],
): Buffer {
  const room = Math.floor((messageBytesMax - headerBytes - question.bytes.length) / answerBytes);
  const fitting = answers.slice(0, room);
  const header = Buffer.alloc(headerBytes);
  header.writeUInt16BE(question.id, 0);
  // Flags: response, recursion available.
  header.writeUInt16BE(0x8080 | (question.recursionDesired ? 0x0100 : 0) | code, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(fitting.length, 6);
  return Buffer.concat([header, question.bytes, ...fitting.map(encodeAddress)]);
}

function encodeAddress({ address, ttlSeconds }: Answer): Buffer {
  const bytes = Buffer.alloc(answerBytes);
  bytes.writeUInt16BE(0xc000 | headerBytes, 0);
  bytes.writeUInt16BE(recordType.a, 2);
  bytes.writeUInt16BE(classInternet, 4);
  bytes.writeUInt32BE(ttlSeconds, 6);
  bytes.writeUInt16BE(4, 10);
  bytes.writeUInt32BE(parseAddress(address) ?? 0, 12);
  return bytes;
}
