/**
 * Gives `Uint8Array` the base64 methods of ECMAScript 2026 where the runtime has none, as Node 24.
 *
 * `@bufbuild/protobuf` encodes bytes in JSON by them, and else in a loop of JavaScript, which the
 * interpreter of an emulated guest runs 300 times slower than Node's own encoder.
 *
 * ORDER: import it before anything that imports `@bufbuild/protobuf`, which looks once, at its start.
 *
 * Only what protobuf asks for is there. `setFromBase64` takes the plain alphabet, with its padding or
 * without, and throws a SyntaxError for everything else; the standard takes white space too. protobuf
 * then reads by itself what it accepts beyond that: base64url, white space, inner padding.
 */
interface Encoding {
  readonly alphabet?: "base64" | "base64url";
  readonly omitPadding?: boolean;
}

export function toBase64(this: Uint8Array, encoding: Encoding = {}): string {
  const { alphabet = "base64", omitPadding = false } = encoding;
  const bare = withoutPadding(viewOf(this).toString(alphabet));
  return omitPadding ? bare : bare.padEnd(Math.ceil(bare.length / 4) * 4, "=");
}

/** Decodes into the array from its start. @throws SyntaxError; what is in the array then is undefined. */
export function setFromBase64(this: Uint8Array, text: string): { read: number; written: number } {
  const view = viewOf(this);
  const written = view.write(text, "base64");
  // Node's decoder skips what it does not know, so only the way back tells whether it knew all.
  const again = view.toString("base64", 0, written);
  if (again !== text && withoutPadding(again) !== text) {
    throw new SyntaxError("the text is not plain base64, or too long");
  }
  return { read: text.length, written };
}

/** No regular expression: it would look at each character. */
function withoutPadding(text: string): string {
  const padding = text.indexOf("=");
  return padding === -1 ? text : text.slice(0, padding);
}

function viewOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

for (const [name, value] of Object.entries({ toBase64, setFromBase64 })) {
  if (name in Uint8Array.prototype) continue;
  // oxlint-disable-next-line no-extend-native -- the standard's own name and meaning
  Object.defineProperty(Uint8Array.prototype, name, { value, writable: true, configurable: true });
}
