/**
 * The content that fake guests keep in their memory and on their disk: a short text, repeated, so
 * that whole blocks can be told apart and a torn one is detected. The empty text is a block of
 * zeros.
 */
const textBytes = 32;

/** A block of this text, repeated; of zeros for the empty text. */
export function patternOf(text: string, bytes: number): Buffer {
  return text === "" ? Buffer.alloc(bytes) : Buffer.alloc(bytes, text.padEnd(textBytes));
}

/** The text that fills `block`, or a text that no pattern has. */
export function textOf(block: Buffer): string {
  const text = block.toString("latin1", 0, textBytes).replace(/\0+$/, "").trimEnd();
  // The block is one text repeated if it equals itself shifted by one text.
  const repeats = block.compare(block, 0, block.length - textBytes, textBytes, block.length) === 0;
  return repeats ? text : `a mixture that begins "${text}"`;
}
