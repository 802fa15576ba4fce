/**
 * Parses large JSON bodies of unary RPCs in the place of the RPC library.
 *
 * The library looks for duplicate keys character by character, in JavaScript, which takes an
 * emulated guest a second for each megabyte of input. It also accepts a body that is already
 * parsed; then the last of two equal keys counts. It parses messages of a stream itself in any
 * case.
 */
import { type DescMessage, type JsonValue, fromJson, toJson } from "@bufbuild/protobuf";
import {
  type UniversalHandler,
  type UniversalServerRequest,
  createAsyncIterable,
  readAllBytes,
} from "@connectrpc/connect/protocol";

/** Smaller bodies cost little in the library's own parser. */
const largeBytes = 64 << 10;

/**
 * Returns the request with its body parsed, or with a body for the library to read if it is small
 * or malformed.
 */
export async function parseLargeJson(
  request: UniversalServerRequest,
  { method }: UniversalHandler,
  bytesMax: number,
): Promise<UniversalServerRequest> {
  const { header, body } = request;
  const isJson = /^application\/json\b/i.test(header.get("content-type") ?? "");
  const isPlain = header.get("content-encoding") === null;
  if (method.methodKind !== "unary" || !isJson || !isPlain || !isStream(body)) return request;
  try {
    const bytes = await readAllBytes(body, bytesMax, header.get("content-length"));
    const parsed = bytes.length < largeBytes ? undefined : parse(method.input, bytes);
    return { ...request, body: parsed ?? createAsyncIterable([bytes]) };
  } catch (cause) {
    return { ...request, body: failing(cause) };
  }
}

/** Undefined for a malformed body: the library's error describes it better. */
function parse(schema: DescMessage, bytes: Uint8Array): JsonValue | undefined {
  try {
    const json = JSON.parse(Buffer.from(bytes).toString("utf8")) as JsonValue;
    // The library refuses unknown fields in a body that is already parsed, so they are dropped.
    return toJson(schema, fromJson(schema, json, { ignoreUnknownFields: true }));
  } catch {
    return undefined;
  }
}

async function* failing(cause: unknown): AsyncGenerator<never> {
  yield await Promise.reject(cause);
}

function isStream(body: UniversalServerRequest["body"]): body is AsyncIterable<Uint8Array> {
  return typeof body === "object" && body !== null && Symbol.asyncIterator in body;
}
