/**
 * What fake guests keep in their memory and on their disk: a short text, again and again, so that whole
 * blocks can be told apart and half of one is found out. The empty text is a block of zeros.
 */
const textBytes = 32;

export function patternOf(text: string, bytes: number): Buffer {
  return text === "" ? Buffer.alloc(bytes) : Buffer.alloc(bytes, text.padEnd(textBytes));
}

/** The text that fills `block`, or one that no pattern has. */
export function textOf(block: Buffer): string {
  const text = block.toString("latin1", 0, textBytes).replace(/\0+$/, "").trimEnd();
  // It is the same again and again if it is the same as itself, moved on by one text.
  const repeats = block.compare(block, 0, block.length - textBytes, textBytes, block.length) === 0;
  return repeats ? text : `a mixture that begins "${text}"`;
}
