/**
 * A reader of HTTP/1 requests that has nothing in common with those of the edge: the second opinion on
 * where one request ends and the next begins. It knows what RFC 9112 allows, and no leniency.
 */

export interface ReadRequest {
  readonly method: string;
  readonly target: string;
  /** Names in small letters. */
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: string;
}

export interface Reading {
  readonly requests: readonly ReadRequest[];
  /** Why it read no further; undefined when the bytes end behind a request. */
  readonly stop: "incomplete" | "broken" | undefined;
  /** The bytes of whole requests. */
  readonly usedBytes: number;
}

class Incomplete extends Error {}
class Broken extends Error {}

/**
 * @param text Decoded as Latin-1.
 * @param excess What means nothing but is too much: line ends before a request, which a server should
 * overlook (RFC 9112, 2.2), and more than one space in its first line, which it may (3). Nobody should send it.
 */
export function readRequests(text: string, excess: "overlooked" | "refused" = "refused"): Reading {
  const requests: ReadRequest[] = [];
  const isOverlooked = excess === "overlooked";
  let at = 0;
  while (at < text.length) {
    if (isOverlooked && (text[at] === "\r" || text[at] === "\n")) {
      at += 1;
      continue;
    }
    const reader = new Reader(text, at);
    try {
      requests.push(readRequest(reader, isOverlooked));
    } catch (cause) {
      if (!(cause instanceof Incomplete) && !(cause instanceof Broken)) throw cause;
      const stop = cause instanceof Incomplete ? "incomplete" : "broken";
      return { requests, stop, usedBytes: at };
    }
    at = reader.at;
  }
  return { requests, stop: undefined, usedBytes: at };
}

class Reader {
  readonly #text: string;
  at: number;

  constructor(text: string, at: number) {
    this.#text = text;
    this.at = at;
  }

  line(): string {
    let line = "";
    for (;;) {
      const character = this.bytes(1);
      if (character === "\n") throw new Broken();
      if (character !== "\r") {
        line += character;
        continue;
      }
      if (this.bytes(1) !== "\n") throw new Broken();
      return line;
    }
  }

  bytes(count: number): string {
    if (this.at + count > this.#text.length) throw new Incomplete();
    const taken = this.#text.slice(this.at, this.at + count);
    this.at += count;
    return taken;
  }
}

function readRequest(reader: Reader, isOverlooked: boolean): ReadRequest {
  const line = reader.line();
  const parts = (isOverlooked ? line.replaceAll(/ +/g, " ") : line).split(" ");
  const [method = "", target = "", version = ""] = parts;
  if (parts.length !== 3 || !/^[!-~]+$/.test(method) || !/^[!-~]+$/.test(target))
    throw new Broken();
  if (version !== "HTTP/1.1" && version !== "HTTP/1.0") throw new Broken();
  const headers = readHeaders(reader);
  const of = (name: string): string[] =>
    headers.flatMap(([other, value]) => (other === name ? [value] : []));
  const lengths = of("content-length");
  const codings = of("transfer-encoding");
  if (lengths.length + codings.length > 1 || of("host").length > 1) throw new Broken();
  if (codings.length === 1) {
    if (codings[0]?.toLowerCase() !== "chunked" || version === "HTTP/1.0") throw new Broken();
    return { method, target, headers, body: readChunks(reader) };
  }
  const [length = "0"] = lengths;
  if (!/^[0-9]+$/.test(length)) throw new Broken();
  return { method, target, headers, body: reader.bytes(Number(length)) };
}

function readHeaders(reader: Reader): [string, string][] {
  const headers: [string, string][] = [];
  for (;;) {
    const line = reader.line();
    if (line === "") return headers;
    const [, name = "", value = ""] =
      /^([\w!#$%&'*+.^`|~-]+):[ \t]*([^]*?)[ \t]*$/.exec(line) ?? [];
    if (name === "" || /[^\t -~\x80-\xff]/.test(value)) throw new Broken();
    headers.push([name.toLowerCase(), value]);
  }
}

function readChunks(reader: Reader): string {
  let body = "";
  for (;;) {
    const [, size] = /^([0-9a-fA-F]+)(?:[ \t]*;[\t -~\x80-\xff]*)?$/.exec(reader.line()) ?? [];
    if (size === undefined) throw new Broken();
    const count = Number.parseInt(size, 16);
    if (count === 0) {
      readHeaders(reader);
      return body;
    }
    body += reader.bytes(count);
    if (reader.line() !== "") throw new Broken();
  }
}
