/**
 * Splits a `multipart/form-data` body while it arrives. It never holds more than the headers of a
 * part and one delimiter's length of its content.
 *
 * File names keep their folders: a client puts the target path there.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { toWireText } from "./path-name.ts";

/** LIMIT: headers of one part; a path and a content type fit many times. */
const headerBytesMax = 16 << 10;
/** LIMIT: text before the first part, which no client sends. */
const preambleBytesMax = 16 << 10;
const lineBreak = Buffer.from("\r\n");
const blankLine = Buffer.from("\r\n\r\n");

/**
 * A file name as the client escaped it (upload-name.ts), or decoded from `filename*`, which names
 * its encoding.
 */
export type PartFilename = { readonly given: string } | { readonly decoded: string };

/** One part of the body. */
export interface Part {
  readonly name: string | undefined;
  readonly filename: PartFilename | undefined;
  /** Read it to its end, or not at all: the unread rest is skipped before the next part. */
  readonly body: AsyncIterable<Buffer>;
}

/** Takes the boundary out of the content type. @throws ConnectError invalid_argument */
export function parseBoundary(contentType: string): string {
  const match = /;\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))/i.exec(contentType);
  const boundary = match?.[1] ?? match?.[2];
  if (boundary === undefined) throw malformed("no boundary in the content type");
  return boundary;
}

/**
 * Yields the parts in order, each before its content has arrived.
 * @throws ConnectError invalid_argument when the body is malformed or ends early.
 */
export async function* parseMultipart(
  source: AsyncIterable<Buffer>,
  boundary: string,
): AsyncGenerator<Part, void, undefined> {
  const delimiter = Buffer.from(`\r\n--${boundary}`, "latin1");
  const input = new Input(source);
  // The first delimiter may open the body, without the line break that precedes the others.
  input.unread(lineBreak);
  await input.takeThrough(delimiter, preambleBytesMax);
  while (await opensPart(input)) {
    const disposition = parseDisposition(await input.takeThrough(blankLine, headerBytesMax));
    const body = readBody(input, delimiter);
    yield { ...disposition, body: { [Symbol.asyncIterator]: () => body } };
    while ((await body.next()).done !== true);
  }
}

/** Reads the bytes after a delimiter: `--` ends the body, a line break begins a part. */
async function opensPart(input: Input): Promise<boolean> {
  const mark = await input.take(2);
  if (mark.equals(Buffer.from("--"))) return false;
  input.unread(mark);
  const padding = await input.takeThrough(lineBreak, 256);
  if (padding.toString("latin1").trim() !== "") throw malformed("text after a boundary");
  // The headers may be empty, and the line break above is then the first of the blank line.
  input.unread(lineBreak);
  return true;
}

/**
 * Yields the content of a part. Leaving it early does not end its input, so that the next part can
 * be found.
 */
function readBody(input: Input, delimiter: Buffer): AsyncGenerator<Buffer, void, undefined> {
  const body = (async function* (): AsyncGenerator<Buffer, void, undefined> {
    for (;;) {
      const found = input.held.indexOf(delimiter);
      if (found !== -1) {
        const last = await input.take(found);
        await input.take(delimiter.length);
        if (last.length > 0) yield last;
        return;
      }
      // The last held bytes may be the beginning of a delimiter.
      const safe = input.held.length - delimiter.length + 1;
      if (safe > 0) yield await input.take(safe);
      await input.more();
    }
  })();
  return Object.assign(body, { return: async () => ({ done: true as const, value: undefined }) });
}

function parseDisposition(header: Buffer): {
  name: string | undefined;
  filename: PartFilename | undefined;
} {
  for (const line of toWireText(header).split("\r\n")) {
    const match = /^content-disposition\s*:\s*form-data\s*(;.*)$/i.exec(line);
    if (match?.[1] === undefined) continue;
    const parameters = parseParameters(match[1]);
    const extended = /^utf-8''(.*)$/i.exec(parameters.get("filename*") ?? "")?.[1];
    const given = parameters.get("filename");
    const plain: PartFilename | undefined = given === undefined ? undefined : { given };
    return {
      name: parameters.get("name"),
      filename: extended === undefined ? plain : { decoded: decodeExtended(extended) },
    };
  }
  return { name: undefined, filename: undefined };
}

/**
 * Parses the parameters without decoding them. It reads them in order, so that none is found inside
 * the value of another.
 */
function parseParameters(text: string): Map<string, string> {
  const parameters = new Map<string, string>();
  const next = /\s*;\s*([^\s=;]+)=(?:"([^"]*)"|([^\s;"]*))/y;
  for (let match = next.exec(text); match !== null; match = next.exec(text)) {
    const name = match[1]?.toLowerCase() ?? "";
    if (!parameters.has(name)) parameters.set(name, match[2] ?? match[3] ?? "");
  }
  return parameters;
}

function decodeExtended(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw malformed("bad filename*", cause);
  }
}

/** The body as bytes that can be looked at before they are taken. */
class Input {
  held: Buffer = Buffer.alloc(0);
  readonly #source: AsyncIterator<Buffer>;

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Waits for more bytes. @throws ConnectError invalid_argument at the end of the body. */
  async more(): Promise<void> {
    const next = await this.#source.next();
    if (next.done === true) throw malformed("the body ends early");
    this.held = this.held.length === 0 ? next.value : Buffer.concat([this.held, next.value]);
  }

  async take(count: number): Promise<Buffer> {
    while (this.held.length < count) await this.more();
    const taken = this.held.subarray(0, count);
    this.held = this.held.subarray(count);
    return taken;
  }

  /** Takes and returns the bytes before `end`; takes `end` too. */
  async takeThrough(end: Buffer, bytesMax: number): Promise<Buffer> {
    for (;;) {
      const found = this.held.indexOf(end);
      if (found > bytesMax || (found === -1 && this.held.length > bytesMax + end.length)) {
        throw malformed("a header is too long");
      }
      if (found !== -1) {
        const taken = await this.take(found);
        await this.take(end.length);
        return taken;
      }
      await this.more();
    }
  }

  unread(bytes: Buffer): void {
    this.held = Buffer.concat([bytes, this.held]);
  }
}

function malformed(problem: string, cause?: unknown): ConnectError {
  return new ConnectError(
    `malformed multipart body: ${problem}`,
    Code.InvalidArgument,
    {},
    [],
    cause,
  );
}
