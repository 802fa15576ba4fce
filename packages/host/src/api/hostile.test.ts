/**
 * No request of a client ends the daemon, and no answer calls it a bug: requests are put together
 * at random from right and odd parts, by a fixed seed, over HTTP/1.1 and HTTP/2. An exception or a
 * rejection that nobody handles fails the test's process.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { OutgoingHttpHeaders } from "node:http";
import { type ClientHttp2Session, constants } from "node:http2";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { jsonLogger } from "@torpor/std";
import type { FakeApi, SchemaValidator } from "./fixtures.ts";
import { type AllListeners, startAllListeners, textOf } from "./listeners-fixture.ts";
import { schemas } from "./openapi/schemas.ts";
import type { Route } from "./route.ts";

const trusting: SchemaValidator = { addSchema: () => undefined, compile: () => () => true };
const limits = { headersMs: 500, bodyMs: 500, answerMs: 5_000, idleMs: 2_000 };
const conversations = 600;
const bodies = 2_000;
const streams = 600;
const atOnce = 20;

/** Of numerical recipes: good enough to choose parts, and the same everywhere. */
class Dice {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  below(count: number): number {
    this.#state = (Math.imul(this.#state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((this.#state / 2 ** 32) * count);
  }

  pick<T>(all: readonly T[]): T {
    return all[this.below(all.length)] as T;
  }

  once(inSoMany: number): boolean {
    return this.below(inSoMany) === 0;
  }
}

const oddTexts = [
  "",
  " ",
  "\0",
  "%",
  "%zz",
  "%00",
  "%2e%2e%2f",
  "..",
  "é",
  "\u{1f600}",
  "__proto__",
  "constructor",
  "-1",
  "1e999",
  "a".repeat(300),
  "a".repeat(20_000),
  "0x10",
  "null",
  "\t",
  "\u0085",
  "i" + "a".repeat(63),
  "base:",
  ":",
  "/",
  "a/b/c",
];
const oddValues: readonly unknown[] = [
  ...oddTexts,
  null,
  true,
  false,
  0,
  -1,
  1.5,
  1e308,
  Number.MAX_SAFE_INTEGER,
  [],
  {},
  [[]],
  [null],
  { a: { b: {} } },
  { ["__proto__"]: 1 },
  Array(2_000).fill(0),
  { length: 1 },
  ["0.0.0.0/0"],
  { enabled: "x" },
];
const oddHeaders = [
  "Content-Length: 5",
  "Content-Length: -1",
  "Content-Length: 99999999999999999999",
  "Transfer-Encoding: chunked",
  "Transfer-Encoding: x",
  "Expect: 100-continue",
  "Expect: x",
  "Upgrade: websocket\r\nConnection: Upgrade",
  "Upgrade: h2c",
  "Connection: close, x-request-id",
  "X-Request-Id: \u00e9\u00ff",
  "Content-Type: é",
  "Content-Type: a/b; c",
  "Torpor-Epoch: x",
  "Idempotency-Key: \u00ff",
  "Idempotency-Key: k",
  "Authorization: Bearer",
  "X-API-Key:",
  "Host: b",
  "X: \u0000",
  ": x",
  "Access-Control-Request-Method: \u00e9",
  "Access-Control-Request-Headers: \u00e9,\u00ff",
  "Cookie: =",
  "Range: bytes=0-",
];

function oddPath(dice: Dice, { path }: Route, ids: readonly string[]): string {
  const filled = path.replaceAll(/\{\w+\}/g, () =>
    dice.once(3) ? dice.pick(oddTexts) : dice.pick(ids),
  );
  const query = dice.once(3)
    ? `?${dice.pick(["limit", "metadata", "nextToken", "state", "start"])}=${dice.pick(oddTexts)}`
    : "";
  return `${filled}${query}`;
}

function oddBody(dice: Dice, { body }: Route): unknown {
  if (body === undefined || dice.once(10)) return dice.pick(oddValues);
  const { properties = {} } = schemas[body.schema] as {
    properties?: Record<string, { properties?: object }>;
  };
  const fields = Object.entries(properties).filter(() => dice.once(3));
  return {
    ...("templateID" in properties && !dice.once(4) ? { templateID: "base" } : {}),
    ...Object.fromEntries(
      fields.map(([name, { properties: inner }]) => {
        const names = Object.keys(inner ?? {}).filter(() => dice.once(2));
        if (names.length === 0) return [name, dice.pick(oddValues)];
        return [name, Object.fromEntries(names.map((one) => [one, dice.pick(oddValues)]))];
      }),
    ),
  };
}

interface Rig extends AsyncDisposable {
  readonly all: AllListeners;
  readonly ids: readonly string[];
  /** Fails when the daemon logged a bug, or does not answer. */
  check(): Promise<void>;
}

async function startRig(): Promise<Rig> {
  const lines: string[] = [];
  const log = jsonLogger((line) => lines.push(line));
  const all = await startAllListeners({ validator: trusting, limits, log });
  const { api } = all;
  const ids = [api.sandboxes.add().record.id, "base", "x".repeat(20)];
  return {
    all,
    ids,
    check: async () => {
      const bugs = lines.filter((line) => line.includes('"level":"error"'));
      assert.deepEqual(bugs, [], "no request is a bug of ours");
      assert.equal((await api.call("GET", "/health")).status, 204);
    },
    [Symbol.asyncDispose]: () => all[Symbol.asyncDispose](),
  };
}

/** Runs `play` so many times, some at once. */
async function repeat(count: number, play: () => Promise<void>): Promise<void> {
  let left = count;
  const player = async (): Promise<void> => {
    while (left-- > 0) await play();
  };
  await Promise.all(Array.from({ length: atOnce }, player));
}

/** Whether the answer is one that the API means to give. */
function assertMeant(status: number, text: string, what: string): void {
  assert.ok(status < 500 || status === 501 || status === 505, `${what}: ${status} ${text}`);
}

async function converse(
  all: AllListeners,
  api: FakeApi,
  dice: Dice,
  ids: readonly string[],
): Promise<void> {
  const socket = await all.dial(dice.once(4) ? "TLS" : "TCP");
  let text = "";
  socket.on("data", (chunk) => (text += String(chunk)));
  const requests = 1 + dice.below(3);
  for (let sent = 0; sent < requests; sent += 1) {
    const route = dice.pick(api.routes);
    const method = dice.once(8)
      ? dice.pick(["HEAD", "OPTIONS", "CONNECT", "TRACE", "QUERY", "FROB"])
      : route.method;
    const headers = Array.from({ length: dice.below(4) }, () => dice.pick(oddHeaders));
    const body = dice.once(2) ? JSON.stringify(oddBody(dice, route)) : "";
    const length = dice.once(5) ? "" : `Content-Length: ${Buffer.byteLength(body)}\r\n`;
    const lines = headers.map((line) => `${line}\r\n`).join("");
    const bytes = `${method} ${oddPath(dice, route, ids)} HTTP/1.${dice.once(9) ? 0 : 1}\r\nHost: a\r\n${length}${lines}\r\n${body}`;
    const cut = dice.once(6) ? dice.below(bytes.length) : bytes.length;
    socket.write(Buffer.from(bytes.slice(0, cut), dice.once(2) ? "latin1" : "utf8"));
    if (dice.once(3)) await sleep(1);
  }
  if (dice.once(3)) socket.destroy();
  else if (dice.once(2)) socket.end();
  await Promise.race([once(socket, "close").catch(() => undefined), sleep(1_500)]);
  socket.destroy();
  for (const [, status] of text.matchAll(/^HTTP\/1\.1 (\d{3})/gm))
    assertMeant(Number(status), text, "HTTP/1.1");
}

async function playStream(
  session: ClientHttp2Session,
  api: FakeApi,
  dice: Dice,
  ids: readonly string[],
): Promise<void> {
  const route = dice.pick(api.routes);
  const headers: OutgoingHttpHeaders = {
    ":method": dice.once(8) ? dice.pick(["HEAD", "OPTIONS", "TRACE", "FROB"]) : route.method,
    ":path": oddPath(dice, route, ids),
  };
  for (const name of [
    "x-request-id",
    "torpor-epoch",
    "idempotency-key",
    "content-type",
    "content-length",
    "expect",
    "te",
    "access-control-request-headers",
    "access-control-request-method",
  ]) {
    if (dice.once(6)) headers[name] = dice.pick(oddTexts);
  }
  try {
    const stream = session.request(headers, { endStream: false });
    stream.on("error", () => undefined);
    let status = 0;
    stream.on("response", (head) => (status = Number(head[":status"])));
    const text = textOf(stream).catch(() => "");
    if (dice.once(2)) stream.write(JSON.stringify(oddBody(dice, route)));
    if (dice.once(6)) stream.close(constants.NGHTTP2_CANCEL);
    else stream.end();
    await Promise.race([once(stream, "close").catch(() => undefined), sleep(1_500)]);
    stream.close();
    assertMeant(
      status,
      await Promise.race([text, sleep(100, "")]),
      `${String(headers[":path"])} over HTTP/2`,
    );
  } catch (cause) {
    // What Node's own client does not send.
    if (cause instanceof assert.AssertionError) throw cause;
  }
}

test("bodies of any shape are understood or refused", async () => {
  await using rig = await startRig();
  const { api } = rig.all;
  const dice = new Dice(20_261_129);
  await repeat(bodies, async () => {
    const route = dice.pick(api.routes);
    const path = route.path.replaceAll(/\{\w+\}/g, () => dice.pick(rig.ids));
    const body = JSON.stringify(oddBody(dice, route));
    const { status, text } = await api.call(route.method, path, { body });
    assertMeant(status, text, `${route.method} ${path} ${body.slice(0, 500)}`);
  });
  await rig.check();
});

test("conversations of odd requests over HTTP/1.1 end in meant answers", async () => {
  await using rig = await startRig();
  const dice = new Dice(7);
  await repeat(conversations, () => converse(rig.all, rig.all.api, dice, rig.ids));
  await rig.check();
});

test("odd streams over HTTP/2 end in meant answers, and their session goes on", async () => {
  await using rig = await startRig();
  const dice = new Dice(11);
  let session = rig.all.openSession();
  session.on("error", () => undefined);
  await repeat(streams, async () => {
    if (session.closed || session.destroyed) {
      session = rig.all.openSession();
      session.on("error", () => undefined);
    }
    await playStream(session, rig.all.api, dice, rig.ids);
  });
  session.destroy();
  await rig.check();
});
