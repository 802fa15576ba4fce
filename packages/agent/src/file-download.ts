/**
 * `GET /files`: sends one file, or a part of it, to a client.
 *
 * The size that the kernel reports is only a claim: files of /proc say 0 and those of /sys 4096,
 * whatever their content, and any file may be truncated while it is sent. So a file that claims to
 * fit into one read is read before the head of the answer is written, and the head states the true
 * size. For a larger file the head promises the claimed size: bytes appended later are not sent,
 * and if the file ends too soon the connection is broken, so that no client takes the beginning for
 * the whole.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { basename, extname } from "node:path";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { Code, ConnectError } from "@connectrpc/connect";
import { type ByteRange, parseRange } from "./byte-range.ts";
import type { FileWork } from "./file-work.ts";
import { sendError } from "./http-answer.ts";
import { OpenFile } from "./open-file.ts";

const readChunkBytes = 256 << 10;
/**
 * How much is read of a file that claims to be empty. Nearly all of those are empty, or fit many
 * times.
 */
const unclaimedBytes = 64 << 10;

/** The content of a file, as far as it is known before it is sent. */
interface Content {
  /** The bytes that were read already, from the start of the file. */
  readonly head: Buffer;
  /** Length of the file; undefined if it claims to be empty and is longer than one read. */
  readonly bytes: number | undefined;
}

/**
 * Sends the file whole or in part, or answers why not. Once the head is sent, a failure breaks the
 * connection.
 * @throws ConnectError, system error
 */
export async function download(
  request: IncomingMessage,
  response: ServerResponse,
  path: string,
  work: FileWork,
): Promise<void> {
  await using file = await OpenFile.read(path, work);
  const modified = Math.floor(file.stats.mtimeMs / 1000) * 1000;
  response.setHeader("Accept-Ranges", "bytes");
  response.setHeader("Content-Disposition", contentDisposition(basename(path)));
  response.setHeader("Content-Type", contentType(path));
  response.setHeader("Last-Modified", new Date(modified).toUTCString());
  response.setHeader("Vary", "Accept-Encoding");

  const { headers } = request;
  if (isBefore(headers["if-unmodified-since"], modified)) {
    sendError(response, 412, "the file was modified");
    return;
  }
  if (
    headers["if-modified-since"] !== undefined &&
    !isBefore(headers["if-modified-since"], modified)
  ) {
    response.writeHead(304).end();
    return;
  }
  const content = await look(file);
  const ifRange = headers["if-range"]?.toString();
  const rangeHolds = ifRange === undefined || Date.parse(ifRange) === modified;
  const range: ByteRange =
    content.bytes === undefined
      ? { kind: "whole" }
      : parseRange(rangeHolds ? headers.range : undefined, content.bytes);
  if (range.kind === "unsatisfiable") {
    response.setHeader("Content-Range", `bytes */${content.bytes}`);
    sendError(response, 416, "the range lies outside the file");
    return;
  }
  const encoding = chooseEncoding(headers["accept-encoding"]);
  if (encoding === "none") {
    sendError(response, 406, "no acceptable encoding");
    return;
  }

  if (range.kind === "part") {
    const { first, last } = range;
    response.setHeader("Content-Range", `bytes ${first}-${last}/${content.bytes}`);
    response.writeHead(206, { "Content-Length": last - first + 1 });
    await send(request, response, readPart(file, content, first, last + 1));
  } else if (encoding === "gzip") {
    response.writeHead(200, { "Content-Encoding": "gzip" });
    await pipeline(readPart(file, content, 0, content.bytes), createGzip(), response);
  } else {
    const { bytes } = content;
    response.writeHead(200, bytes === undefined ? {} : { "Content-Length": bytes });
    await send(request, response, readPart(file, content, 0, bytes));
  }
}

/** Reads a file that claims to fit into one read; of a larger one, takes the claim. */
async function look(file: OpenFile): Promise<Content> {
  const claimed = file.stats.size;
  if (claimed > readChunkBytes) return { head: Buffer.alloc(0), bytes: claimed };
  const room = Buffer.allocUnsafe(claimed === 0 ? unclaimedBytes : claimed);
  let bytes = 0;
  while (bytes < room.length) {
    const read = await file.read(room.subarray(bytes), null);
    if (read.length === 0) break;
    bytes += read.length;
  }
  const isWhole = bytes < room.length || claimed > 0;
  return { head: room.subarray(0, bytes), bytes: isWhole ? bytes : undefined };
}

async function send(
  request: IncomingMessage,
  response: ServerResponse,
  content: AsyncIterable<Buffer>,
): Promise<void> {
  if (request.method === "HEAD") response.end();
  else await pipeline(content, response);
}

/**
 * Yields the bytes from `first` up to `end`, exclusive, or up to the end of the file if that is
 * unknown. The next piece is read while one is sent.
 * @throws ConnectError data_loss when the file ends before `end`.
 */
async function* readPart(
  file: OpenFile,
  { head }: Content,
  first: number,
  end = Infinity,
): AsyncGenerator<Buffer, void, undefined> {
  const inHead = head.subarray(first, Math.min(end, head.length));
  if (inHead.length > 0) yield inHead;
  let at = first + inHead.length;
  if (at >= end) return;
  // After the head, the file's own position is where reading continues.
  const isInPlace = at === head.length;
  const readNext = async (): Promise<Buffer> => {
    const bytes = Math.min(readChunkBytes, end - at);
    const read = await file.read(Buffer.allocUnsafe(bytes), isInPlace ? null : at);
    at += read.length;
    return read;
  };
  for (let next = readNext(); ;) {
    const read = await next;
    if (read.length === 0) break;
    const isLast = at >= end;
    if (!isLast) {
      next = readNext();
      // It may fail before it is awaited.
      next.catch(() => undefined);
    }
    yield read;
    if (isLast) return;
  }
  if (end !== Infinity) {
    throw new ConnectError(`the file ended at byte ${at} of ${end}`, Code.DataLoss);
  }
}

/** Whether the file was modified after the date of a header; false without a readable one. */
function isBefore(header: string | undefined, modifiedMs: number): boolean {
  return header !== undefined && Date.parse(header) < modifiedMs;
}

/** Sends the file as it is, unless the client does not accept that. */
function chooseEncoding(header: string | undefined): "identity" | "gzip" | "none" {
  if (header === undefined) return "identity";
  const weights = new Map<string, number>();
  for (const item of header.toLowerCase().split(",")) {
    const [name, ...parameters] = item.split(";").map((part) => part.trim());
    const weight = parameters.find((parameter) => parameter.startsWith("q="))?.slice(2);
    if (name !== undefined && name !== "")
      weights.set(name, weight === undefined ? 1 : Number(weight));
  }
  const any = weights.get("*");
  if ((weights.get("identity") ?? any ?? 1) > 0) return "identity";
  return (weights.get("gzip") ?? any ?? 0) > 0 ? "gzip" : "none";
}

function contentDisposition(name: string): string {
  if (/^[\w!#$&+\-.^`|~]+$/.test(name)) return `inline; filename=${name}`;
  if (/^[\x20-\x7e]*$/.test(name)) return `inline; filename="${name.replace(/["\\]/g, "\\$&")}"`;
  const encoded = encodeURIComponent(name).replace(
    /['()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16)}`,
  );
  return `inline; filename*=utf-8''${encoded}`;
}

const typeByExtension: Readonly<Record<string, string>> = {
  ".css": "text/css; charset=utf-8",
  ".csv": "text/csv; charset=utf-8",
  ".gif": "image/gif",
  ".htm": "text/html; charset=utf-8",
  ".html": "text/html; charset=utf-8",
  ".jpeg": "image/jpeg",
  ".jpg": "image/jpeg",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".md": "text/markdown; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".pdf": "application/pdf",
  ".png": "image/png",
  ".svg": "image/svg+xml",
  ".txt": "text/plain; charset=utf-8",
  ".wasm": "application/wasm",
  ".webp": "image/webp",
  ".xml": "text/xml; charset=utf-8",
};

function contentType(path: string): string {
  return typeByExtension[extname(path).toLowerCase()] ?? "application/octet-stream";
}
