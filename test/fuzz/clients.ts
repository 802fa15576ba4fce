/** Parsers of what clients of the API, of the edge and of the agent send, and a guest's packets. */
import assert from "node:assert/strict";
import { parseRange as parseByteRange } from "../../packages/agent/src/byte-range.ts";
import { parseMetadata } from "../../packages/agent/src/metadata.ts";
import { parseBoundary, parseMultipart } from "../../packages/agent/src/multipart.ts";
import { decodePercents, toDiskPath, toWireText } from "../../packages/agent/src/path-name.ts";
import { signatureProblem } from "../../packages/agent/src/signature.ts";
import {
  formatOutputOffsets,
  parseOutputOffsets,
  parseTimeoutMs,
} from "../../packages/agent/src/stream-headers.ts";
import { parseSandboxId } from "../../packages/host/src/api/fields.ts";
import { keyedRequestOf } from "../../packages/host/src/api/idempotency-key.ts";
import {
  parseConnectTimeout,
  parseLifetime,
  parseOnTimeout,
  parseTimeout,
} from "../../packages/host/src/api/lifetimes.ts";
import { parseListQuery, parseMetadataFilter } from "../../packages/host/src/api/list-query.ts";
import { parseNetworkUpdate, parseNewNetwork } from "../../packages/host/src/api/network-body.ts";
import { parseNewSandbox } from "../../packages/host/src/api/new-sandbox.ts";
import { ConnectEnvelopes } from "../../packages/host/src/edge/connect-envelopes.ts";
import { parseFields } from "../../packages/host/src/edge/http-syntax.ts";
import { targetOf } from "../../packages/host/src/edge/target.ts";
import { WebSocketFrames } from "../../packages/host/src/edge/websocket-frames.ts";
import { parseNewName, parseReference, parseTag } from "../../packages/host/src/template-tags.ts";
import { formatRange, parseAddress, parseRange } from "../../packages/network/src/address-range.ts";
import { httpHost, tlsServerName } from "../../packages/network/src/announced-name.ts";
import {
  encodeAnswer,
  messageBytesMax,
  parseQuestion,
  responseCode,
} from "../../packages/network/src/dns-message.ts";
import { parseNetworkPolicy } from "../../packages/network/src/network-policy.ts";
import {
  optional,
  parseBoolean,
  parseInteger,
  parseIntegerText,
  parseJson,
  parseObject,
  parseOneOf,
  parseString,
  parseStringMap,
} from "../../packages/std/src/parse.ts";
import type { Target } from "./fuzz.ts";
import { bytes, json, stringsOf, text } from "./targets.ts";

const hour = 3_600_000;
const lifetime = { timeoutMs: 1, idleTimeoutMs: null, maxRunMs: null } as never;
const sandboxBody = {
  templateID: "base:latest",
  timeout: 300,
  metadata: { a: "b" },
  envVars: { A: "b" },
  secure: true,
  autoPause: true,
  autoResume: { enabled: true },
  allow_internet_access: true,
  network: {
    allowOut: ["example.com", "1.2.3.4/24"],
    denyOut: ["0.0.0.0/0"],
    allowPublicTraffic: true,
    maskRequestHost: "x:${PORT}",
  },
};
const keyedRoute = { method: "POST", path: "/sandboxes", onRepeat: "asKeyed" } as never;

/** A ClientHello with one server name. */
function clientHello(name: string): Buffer {
  const host = Buffer.from(name);
  const u16 = (value: number): Buffer => Buffer.from([value >> 8, value & 255]);
  const entry = Buffer.concat([Buffer.from([0]), u16(host.length), host]);
  const list = Buffer.concat([u16(entry.length), entry]);
  const extension = Buffer.concat([u16(0), u16(list.length), list]);
  const body = Buffer.concat([
    Buffer.from([3, 3]),
    Buffer.alloc(32, 7),
    Buffer.from([0, 0, 2, 0x13, 1, 1, 0]),
    u16(extension.length),
    extension,
  ]);
  const message = Buffer.concat([Buffer.from([1, 0]), u16(body.length), body]);
  return Buffer.concat([Buffer.from([22, 3, 1]), u16(message.length), message]);
}

/** In pieces and in one, the same is to be found. */
function pieces(input: Buffer): readonly Buffer[] {
  const size = 1 + (input.length % 7);
  return Array.from({ length: Math.ceil(input.length / size) }, (_, index) =>
    input.subarray(index * size, (index + 1) * size),
  );
}

async function multipartText(source: Iterable<Buffer>): Promise<string> {
  async function* stream(): AsyncGenerator<Buffer> {
    yield* source;
  }
  const heard: unknown[] = [];
  try {
    for await (const { body, ...disposition } of parseMultipart(stream(), "b")) {
      const parts: Buffer[] = [];
      for await (const part of body) parts.push(part);
      heard.push(disposition, Buffer.concat(parts).toString("latin1"));
    }
    return JSON.stringify(heard);
  } catch (cause) {
    return cause instanceof Error ? cause.name : "?";
  }
}

const upload =
  '--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\ndata\r\n' +
  "--b\r\nContent-Disposition: form-data; name=x; filename*=UTF-8''%C3%A9\r\n\r\n\r\n--b--\r\n";

const toAgent: readonly Target[] = [
  bytes(
    "agent/src/path-name.ts decodePercents",
    ["/a b/\xc3\xa9\xff", "%2f\xf4\x8f\xba\x80"],
    (input) => {
      const name = toWireText(input);
      assert.ok(name.isWellFormed());
      assert.ok(Buffer.from(toDiskPath(name)).equals(input));
      const escaped = Array.from(input, (byte) => `%${byte.toString(16).padStart(2, "0")}`).join(
        "",
      );
      assert.equal(decodePercents(escaped), name);
      decodePercents(input.toString());
    },
  ),
  text("agent/src/byte-range.ts parseRange", ["bytes=0-9", "bytes=-5", "bytes=9-"], (header) => {
    const range = parseByteRange(header, 100) as { startByte?: number; endByte?: number };
    const numbers = Object.values(range).filter((one) => typeof one === "number");
    for (const one of numbers) assert.ok(one >= 0 && one <= 100, String(one));
  }),
  json(
    "agent/src/metadata.ts parseMetadata",
    [{ "x-metadata-a": "b", "x-metadata-__proto__": "c" }, { host: "x" }],
    (value) => {
      const headers = stringsOf(value);
      const named = Object.keys(headers).filter((name) => name.startsWith("x-metadata-"));
      assert.equal(Object.keys(parseMetadata(headers)).length, named.length);
    },
  ),
  text(
    "agent/src/multipart.ts parseBoundary",
    ["multipart/form-data; boundary=x", 'multipart/form-data; boundary="a b"'],
    parseBoundary,
  ),
  bytes("agent/src/multipart.ts parseMultipart", [upload], async (input) => {
    // An escape that is wrong is told with its cause, which is no matter of how the bytes come.
    assert.equal(await multipartText(pieces(input)), await multipartText([input]));
    for await (const { body } of parseMultipart(toStream(input), "b")) {
      for await (const part of body) assert.ok(part.length > 0);
    }
  }),
  json(
    "agent/src/signature.ts signatureProblem",
    [{ path: "/a", operation: "read", username: "", signature: "v1_x", expiration: "1" }],
    (value) => {
      const { path = "", username = "", signature = "", expiration } = stringsOf(value);
      signatureProblem({ path, operation: "read", username, signature, expiration }, "token", 0);
    },
  ),
  text("agent/src/stream-headers.ts parseTimeoutMs", ["1000", "0"], (value) => {
    const timeoutMs = parseTimeoutMs(value);
    assert.ok(timeoutMs === undefined || (Number.isFinite(timeoutMs) && timeoutMs >= 0));
  }),
  text("agent/src/stream-headers.ts parseOutputOffsets", ["1,2", " 3 , 4 "], (value) => {
    const headers = { get: () => value } as unknown as Headers;
    const offsets = parseOutputOffsets(headers, ["stdout", "stderr"]);
    if (offsets !== undefined) assert.match(formatOutputOffsets(offsets), /^\d+,\d+$/);
  }),
];

const toApi: readonly Target[] = [
  json("host/src/api/fields.ts parseSandboxId", ["i123abc", 5], (value) =>
    parseSandboxId(value, "id"),
  ),
  json("host/src/api/idempotency-key.ts keyedRequestOf", [["key", { a: 1 }]], (value) => {
    const [key, body] = Array.isArray(value) ? (value as unknown[]) : [];
    const headers = { "idempotency-key": key as string };
    keyedRequestOf(keyedRoute, "caller", { params: {}, query: {}, body, headers });
  }),
  ...[parseTimeout, (body: never) => parseLifetime(body, 1, hour)].map((parse, index) =>
    json(
      `host/src/api/lifetimes.ts ${["parseTimeout", "parseLifetime"][index]}`,
      [{ timeout: 5 }, { timeoutMs: null }, { idleTimeoutMs: 1, maxRunMs: 2 }],
      (value) => parse(parseObject(value, "body") as never, hour),
    ),
  ),
  json(
    "host/src/api/lifetimes.ts parseConnectTimeout",
    [{ keepTimeout: true }, { timeout: 5 }],
    (value) => parseConnectTimeout(parseObject(value, "body"), "v2", hour, lifetime),
  ),
  json("host/src/api/lifetimes.ts parseOnTimeout", [{ autoPause: true }], (value) =>
    parseOnTimeout(parseObject(value, "body")),
  ),
  json(
    "host/src/api/list-query.ts parseListQuery",
    [
      { order: "asc", state: "running,paused", limit: "5", nextToken: "e30", metadata: "a=b" },
      { startedAfter: "2026-01-01T00:00:00Z", template: "x" },
    ],
    (value) => parseListQuery({ query: stringsOf(value) } as never),
  ),
  text("host/src/api/list-query.ts parseMetadataFilter", ["a=b&c=d", "a%3D=%26"], (value) =>
    parseMetadataFilter(value),
  ),
  json("host/src/api/network-body.ts parseNewNetwork", [sandboxBody], (value) =>
    parseNewNetwork(parseObject(value, "body")),
  ),
  json("host/src/api/network-body.ts parseNetworkUpdate", [sandboxBody.network], (value) =>
    parseNetworkUpdate(parseObject(value, "body"), null),
  ),
  json("host/src/api/new-sandbox.ts parseNewSandbox", [sandboxBody, { templateID: "x" }], (value) =>
    parseNewSandbox(parseObject(value, "body"), "v2", hour),
  ),
  ...[parseReference, parseNewName, parseTag].map((parse) =>
    text(`host/src/template-tags.ts ${parse.name}`, ["base", "team/base:tag", "a-b.c"], parse),
  ),
  text("std/src/parse.ts parseJson", ['{"a":[1,"b"]}'], (value) => parseJson(value, "it")),
  text("std/src/parse.ts parseIntegerText", ["12", "0x10"], (value) => {
    const number = parseIntegerText(value, "it", 1, 100);
    assert.ok(number >= 1 && number <= 100);
  }),
  json("std/src/parse.ts parseStringMap", [{ a: "b" }], (value) => {
    const map = parseStringMap(value, "it");
    assert.ok(Object.values(map).every((one) => typeof one === "string"));
  }),
  ...[
    parseObject,
    parseString,
    parseBoolean,
    (value: unknown) => parseInteger(value, "it", -5, 5),
    (value: unknown) => parseOneOf(value, "it", ["a", "b"]),
  ].map((parse, index) =>
    json(
      `std/src/parse.ts ${["parseObject", "parseString", "parseBoolean", "parseInteger", "parseOneOf"][index]}`,
      [{ a: 1 }, "a", true, 3],
      (value) => optional(value, (one) => parse(one, "it"), "it"),
    ),
  ),
];

const toEdge: readonly Target[] = [
  bytes(
    "host/src/edge/connect-envelopes.ts ConnectEnvelopes",
    [Buffer.from([0, 0, 0, 0, 2, 65, 66, 2, 0, 0, 0, 2, 123, 125])],
    (input) => {
      const [whole, parted] = [new ConnectEnvelopes(), new ConnectEnvelopes()];
      whole.push(input);
      for (const piece of pieces(input)) parted.push(piece);
      assert.equal(parted.mayEnd, whole.mayEnd);
    },
  ),
  bytes(
    "host/src/edge/websocket-frames.ts WebSocketFrames",
    [Buffer.from([0x81, 2, 65, 66, 0x82, 0x81, 1, 2, 3, 4, 5, 0x82, 126, 0, 1, 9, 0x88, 0])],
    (input) => {
      const [whole, parted] = [new WebSocketFrames(), new WebSocketFrames()];
      whole.push(input);
      for (const piece of pieces(input)) parted.push(piece);
      assert.equal(parted.mayClose, whole.mayClose);
    },
  ),
  text("host/src/edge/http-syntax.ts parseFields", ["Host: x\r\nA:b \r\n", "a:\r\n"], parseFields),
  json(
    "host/src/edge/target.ts targetOf",
    [
      { host: "8000-i123.example.org:80" },
      { host: "x", "e2b-sandbox-id": "i123", "e2b-sandbox-port": "80" },
      { ":authority": "80-i1.example.org" },
    ],
    (value) => {
      const target = targetOf(stringsOf(value), "example.org");
      if (target.kind === "guest") assert.ok(target.port >= 1 && target.port <= 65_535);
    },
  ),
  bytes(
    "network/src/announced-name.ts httpHost",
    ["GET / HTTP/1.1\r\nHost: example.com:80\r\n\r\n"],
    httpHost,
  ),
  bytes(
    "network/src/announced-name.ts tlsServerName",
    [clientHello("example.com"), clientHello("example.com").subarray(0, 40)],
    tlsServerName,
  ),
  bytes(
    "network/src/dns-message.ts parseQuestion",
    [
      Buffer.concat([
        Buffer.from([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        Buffer.from("\x07example\x03com\0\0\x01\0\x01", "latin1"),
      ]),
    ],
    (input) => {
      const question = parseQuestion(input);
      if (question === undefined) return;
      const answers = Array.from({ length: 100 }, () => ({ address: "1.2.3.4", ttlSeconds: 1 }));
      const answer = encodeAnswer(question, responseCode.ok, answers);
      assert.ok(answer.length <= messageBytesMax);
    },
  ),
  text("network/src/address-range.ts parseAddress", ["1.2.3.4", "255.255.255.255"], (value) => {
    const address = parseAddress(value);
    assert.ok(address === undefined || (address >= 0 && address < 2 ** 32));
  }),
  text("network/src/address-range.ts parseRange", ["10.0.0.0/8", "1.2.3.4"], (value) => {
    const range = parseRange(value);
    if (range !== undefined) assert.deepEqual(parseRange(formatRange(range)), range);
  }),
  json(
    "network/src/network-policy.ts parseNetworkPolicy",
    [{ allowInternetAccess: true, allowOut: ["a.com", "1.0.0.0/8"], denyOut: ["0.0.0.0/0"] }],
    (value) => {
      const { allowOut, denyOut } = parseNewNetwork({ network: value }) ?? {};
      parseNetworkPolicy({
        allowInternetAccess: null,
        allowOut: allowOut ?? [],
        denyOut: denyOut ?? [],
      });
    },
  ),
];

export const clientTargets: readonly Target[] = [...toAgent, ...toApi, ...toEdge];

async function* toStream(input: Buffer): AsyncGenerator<Buffer> {
  yield input;
}
