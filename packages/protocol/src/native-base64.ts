/**
 * Gives `Uint8Array` the base64 methods of ECMAScript 2026 where the runtime has none, such as Node
 * 24.
 *
 * `@bufbuild/protobuf` uses them to encode bytes in JSON. Without them it encodes in a JavaScript
 * loop, which the interpreter of an emulated guest runs 300 times slower than Node's own encoder.
 *
 * ORDER: import this before anything that imports `@bufbuild/protobuf`, which looks for them once,
 * when it is loaded.
 *
 * Only the part that protobuf uses is implemented. `setFromBase64` takes the plain alphabet, with
 * or without padding, and throws a SyntaxError for everything else; the standard takes white space
 * too. protobuf then decodes by itself what it accepts beyond that: base64url, white space, inner
 * padding.
 */
interface Encoding {
  readonly alphabet?: "base64" | "base64url";
  readonly omitPadding?: boolean;
}

/** Encodes the array, with padding unless `omitPadding`. */
export function toBase64(this: Uint8Array, encoding: Encoding = {}): string {
  const { alphabet = "base64", omitPadding = false } = encoding;
  const bare = withoutPadding(viewOf(this).toString(alphabet));
  return omitPadding ? bare : bare.padEnd(Math.ceil(bare.length / 4) * 4, "=");
}

/**
 * Decodes into the array from its start.
 * @throws SyntaxError; the array's content is undefined then.
 */
export function setFromBase64(this: Uint8Array, text: string): { read: number; written: number } {
  const view = viewOf(this);
  const written = view.write(text, "base64");
  // Node's decoder skips unknown characters, so only encoding again tells whether it knew all.
  const again = view.toString("base64", 0, written);
  if (again !== text && withoutPadding(again) !== text) {
    throw new SyntaxError("the text is not plain base64, or too long");
  }
  return { read: text.length, written };
}

/** Uses no regular expression, which would look at each character. */
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
