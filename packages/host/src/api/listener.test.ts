/**
 * Slow and hung clients: cut in time, and no hindrance to others while they last. The limits are short
 * here; times decide nothing but that all of it comes to an end.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type Socket, connect } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type FakeApi, type SchemaValidator, startFakeApi } from "./fixtures.ts";

const trusting: SchemaValidator = { addSchema: () => undefined, compile: () => () => true };
const limits = { headersMs: 1_000, bodyMs: 1_000, answerMs: 2_000, idleMs: 1_000 };
const clientsOfEachKind = 125;
const waitMs = 60_000;
/** A call beside the hung clients may take so much longer than one alone; a busy machine is slow. */
const slowdownMax = 100;
const callMsMin = 20;

/** The bytes that each kind of bad client sends before it falls silent. */
const kinds: Readonly<Record<string, string>> = {
  "says nothing": "",
  "never ends its headers": "GET /health HTTP/1.1\r\nHost: a\r\nX-A: ",
  "never ends its body": "POST /v2/sandboxes HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{",
  "asks and stays": "GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
};

async function open(port: number, text: string): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => socket.destroy());
  await once(socket, "connect");
  socket.write(text);
  socket.resume();
  return socket;
}

async function whenClosed(socket: Socket): Promise<void> {
  if (!socket.closed) await once(socket, "close");
}

async function worstCallMs(api: FakeApi, rounds: number): Promise<number> {
  let worst = 0;
  for (let round = 0; round < rounds; round += 1) {
    const startedMonoMs = performance.now();
    const created = await api.call("POST", "/v2/sandboxes", { body: { templateID: "base" } });
    assert.equal(created.status, 201);
    const { sandboxID } = created.body as { sandboxID: string };
    assert.equal((await api.call("DELETE", `/sandboxes/${sandboxID}`)).status, 204);
    worst = Math.max(worst, performance.now() - startedMonoMs);
  }
  return worst;
}

test("five hundred slow and hung clients are cut, and hold nobody up", async () => {
  await using api = await startFakeApi({ validator: trusting, limits });
  const aloneMs = await worstCallMs(api, 20);
  const heapBefore = process.memoryUsage().heapUsed;
  const sockets = await Promise.all(
    Object.values(kinds).flatMap((text) =>
      Array.from({ length: clientsOfEachKind }, () => open(api.port, text)),
    ),
  );
  assert.equal(sockets.length, 500);
  const closed = Promise.all(sockets.map(whenClosed));
  const besideMs = await worstCallMs(api, 20);
  assert.ok(
    besideMs < Math.max(aloneMs, callMsMin) * slowdownMax,
    `${besideMs} against ${aloneMs}`,
  );
  const outcome = await Promise.race([closed, sleep(waitMs, "late", { ref: false })]);
  assert.notEqual(outcome, "late", "every one of them is cut");
  while ((await api.countConnections()) > 0) await sleep(20);
  assert.equal((await api.call("GET", "/health")).status, 204);
  assert.ok(process.memoryUsage().heapUsed < heapBefore + 64 * 1024 * 1024);
});

test("a body that trickles in is answered 408, one that is too large 413", async () => {
  await using api = await startFakeApi({ validator: trusting, limits });
  const socket = await open(api.port, kinds["never ends its body"] ?? "");
  let text = "";
  socket.on("data", (chunk) => (text += chunk.toString()));
  const trickle = setInterval(() => socket.write(" "), 50);
  await once(socket, "close");
  clearInterval(trickle);
  assert.match(text, /^HTTP\/1\.1 408 [^]*"error_code":"request\.slow"/);
  const body = JSON.stringify({ templateID: "x".repeat(16 * 1024 * 1024) });
  const large = await api.call("POST", "/v2/sandboxes", { body });
  assert.equal(large.status, 413);
});

test("what is no HTTP is told so, in the same words as any error", async () => {
  await using api = await startFakeApi({ validator: trusting, limits });
  const socket = await open(api.port, "");
  let text = "";
  socket.on("data", (chunk) => (text += chunk.toString()));
  socket.write("this is no HTTP\r\n\r\n");
  await once(socket, "close");
  assert.match(text, /^HTTP\/1\.1 400 [^]*"code":400/);
});
