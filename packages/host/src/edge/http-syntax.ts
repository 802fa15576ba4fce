/**
 * The characters of HTTP/1 (RFC 9110, 5.5 and 5.6.2; RFC 9112, 2.2 and 4), and the parser of a
 * guest's header and trailer fields. Pure. Nothing is repaired: a text that breaks a rule is
 * refused.
 */

const tokenPattern = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
const valuePattern = /^[\t\x20-\x7e\x80-\xff]*$/;
/** A control character, or a CR or LF that is not part of a CRLF. */
const brokenTextPattern = /[^\t\r\n\x20-\x7e\x80-\xff]|\r(?!\n)|(?<!\r)\n/;

/** Header or trailer fields in their order. `names` are in lower case, one for each field. */
export interface Fields {
  readonly names: readonly string[];
  /** Names as they were sent and values alternate, so it is twice as long as `names`. */
  readonly pairs: readonly string[];
}

/** The fields of a message without any. The edge compares by identity with it. */
export const noFields: Fields = { names: [], pairs: [] };

/** A message breaks a rule of HTTP. `message` says which, and does not name the sender. */
export class SyntaxFault extends Error {}

/** Whether a text is a token, as names of fields and methods must be. */
export function isToken(text: string): boolean {
  return tokenPattern.test(text);
}

/** Whether a text may be the value of a field. */
export function isFieldValue(text: string): boolean {
  return valuePattern.test(text);
}

/**
 * Parses the lines of a head or of trailers.
 * @param text Lines, each with its CRLF, decoded as Latin-1.
 * @throws SyntaxFault
 */
export function parseFields(text: string): Fields {
  if (brokenTextPattern.test(text)) throw new SyntaxFault("a header has a forbidden character");
  const names: string[] = [];
  const pairs: string[] = [];
  let at = 0;
  while (at < text.length) {
    const end = text.indexOf("\r\n", at);
    const colon = text.indexOf(":", at);
    if (end === -1 || colon === -1 || colon > end) throw new SyntaxFault("a header has no colon");
    const name = text.slice(at, colon);
    // A line that begins with a space, which would continue the one before, has no valid name.
    if (!tokenPattern.test(name)) throw new SyntaxFault("a header has a forbidden name");
    names.push(name.toLowerCase());
    pairs.push(name, trimSpace(text.slice(colon + 1, end)));
    at = end + 2;
  }
  return { names, pairs };
}

/** Takes over Node's raw headers, where names and values alternate. */
export function fieldsOf(rawHeaders: readonly string[]): Fields {
  const names: string[] = [];
  for (let index = 0; index < rawHeaders.length; index += 2) {
    names.push((rawHeaders[index] ?? "").toLowerCase());
  }
  return { names, pairs: rawHeaders };
}

/** The value of the first field of that name, which is in lower case. */
export function valueOf({ names, pairs }: Fields, name: string): string | undefined {
  const index = names.indexOf(name);
  return index === -1 ? undefined : pairs[2 * index + 1];
}

/** The values of all fields of that name, which is in lower case. */
export function valuesOf({ names, pairs }: Fields, name: string): readonly string[] {
  const first = names.indexOf(name);
  if (first === -1) return [];
  const values: string[] = [];
  for (let index = first; index < names.length; index += 1) {
    if (names[index] === name) values.push(pairs[2 * index + 1] ?? "");
  }
  return values;
}

/** The members of a list field, in lower case. */
export function listOf(fields: Fields, name: string): readonly string[] {
  return valuesOf(fields, name)
    .flatMap((value) => value.split(","))
    .map((member) => trimSpace(member).toLowerCase());
}

/** Trims spaces and tabs only: other white space is part of a value. */
function trimSpace(text: string): string {
  let from = 0;
  let to = text.length;
  while (from < to && isSpace(text.charCodeAt(from))) from += 1;
  while (to > from && isSpace(text.charCodeAt(to - 1))) to -= 1;
  return text.slice(from, to);
}

function isSpace(code: number): boolean {
  return code === 0x20 || code === 0x09;
}
