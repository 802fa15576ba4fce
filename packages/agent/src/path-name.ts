/**
 * Names of files as text. The kernel allows any bytes but zero and "/" in a name; the wire carries
 * valid UTF-8 only.
 *
 * A byte that belongs to no valid UTF-8 sequence is sent as one character of a private range,
 * U+10FE80 to U+10FEFF for the bytes 0x80 to 0xFF. The bytes of a real character of that range are
 * sent in the same way, so that no two names have the same text, and `toDiskPath` turns each text
 * back into its bytes. All code above the system calls works on the text.
 */
import { isUtf8 } from "node:buffer";

const escapeBase = 0x10_fe00;
const firstEscape = escapeBase + 0x80;
const lastEscape = escapeBase + 0xff;
/** Every escape begins with this half of a surrogate pair; few other characters do. */
const escapeHalf = "\uDBFF";

/** Turns a name or path from the kernel into text for the wire. */
export function toWireText(bytes: Buffer): string {
  const text = bytes.toString("utf8");
  return /[\uFFFD\uDBFF]/.test(text) ? escapeBytes(bytes) : text;
}

/** Turns a path from the wire into an argument for system calls. */
export function toDiskPath(path: string): string | Buffer {
  if (!path.includes(escapeHalf)) return path;
  const pieces = Array.from(path, (character) => {
    const code = character.codePointAt(0) ?? 0;
    const isEscape = code >= firstEscape && code <= lastEscape;
    return isEscape ? Buffer.of(code - escapeBase) : Buffer.from(character);
  });
  return Buffer.concat(pieces);
}

/**
 * Decodes a percent-encoded value of a URL, which may contain any bytes, into text for the wire.
 */
export function decodePercents(value: string): string {
  const bytes = value
    .replaceAll("+", " ")
    .replace(/%([0-9a-f]{2})/gi, (_match, hex: string) => String.fromCharCode(parseInt(hex, 16)));
  return toWireText(Buffer.from(bytes, "latin1"));
}

function escapeBytes(bytes: Buffer): string {
  let text = "";
  for (let at = 0; at < bytes.length;) {
    const character = bytes.subarray(at, at + sequenceBytes(bytes[at] ?? 0));
    const decoded = isUtf8(character) ? character.toString("utf8") : "";
    const code = decoded.codePointAt(0);
    const isPlain = code !== undefined && (code < firstEscape || code > lastEscape);
    text += isPlain ? decoded : String.fromCodePoint(escapeBase + (bytes[at] ?? 0));
    at += isPlain ? character.length : 1;
  }
  return text;
}

/** Length of the UTF-8 sequence that a byte begins. */
function sequenceBytes(lead: number): number {
  if (lead < 0xc0) return 1;
  if (lead < 0xe0) return 2;
  return lead < 0xf0 ? 3 : 4;
}
