/**
 * Parses large JSON bodies of unary RPCs in the place of the RPC library.
 *
 * The library looks for duplicate keys character by character, in JavaScript, which takes an emulated
 * guest a second for each megabyte of input. It also takes a body that was parsed already; of two
 * equal keys the last one counts then. Messages of a stream it takes in its own way only.
 */
import { type DescMessage, type JsonValue, fromJson, toJson } from "@bufbuild/protobuf";
import {
  type UniversalHandler,
  type UniversalServerRequest,
  createAsyncIterable,
  readAllBytes,
} from "@connectrpc/connect/protocol";

/** What is smaller costs little by the library's own parser. */
const largeBytes = 64 << 10;

/** The request with its body parsed, or one for the library to read if the body is small or wrong. */
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

/** Undefined for what is wrong: the library says it better. */
function parse(schema: DescMessage, bytes: Uint8Array): JsonValue | undefined {
  try {
    const json = JSON.parse(Buffer.from(bytes).toString("utf8")) as JsonValue;
    // Fields that it does not know the library refuses in a body that was parsed, so they go.
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
