/**
 * The effect that an answer reports is true: no limit of a listener answers for work that
 * continues, on any listener, and nothing that happens on its connection after a request answers
 * for it.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { FakeApi, SchemaValidator } from "./fixtures.ts";
import { listenerNames, startAllListeners, textOf } from "./listeners-fixture.ts";

const trusting: SchemaValidator = { addSchema: () => undefined, compile: () => () => true };
const limits = { headersMs: 300, bodyMs: 300, answerMs: 20_000, idleMs: 20_000 };
/** Much longer than a body may take to come. */
const workMs = 2_000;

interface Verb {
  readonly method: string;
  readonly path: string;
  /** Undefined: there may be one or none. */
  readonly body?: object;
}

/** Every route that changes a sandbox or a snapshot, each with a sandbox of its own. */
async function verbsOf(api: FakeApi): Promise<readonly Verb[]> {
  const running = (): string => `/sandboxes/${api.sandboxes.add().record.id}`;
  const paused = (): string =>
    `/sandboxes/${api.sandboxes.add({ state: { kind: "paused" } }).record.id}`;
  const snapshot = await api.sandboxes.takeSnapshot(api.sandboxes.add().record.id, null);
  const pooled = await api.sandboxes.takeSnapshot(api.sandboxes.add().record.id, null);
  return [
    { method: "POST", path: "/v2/sandboxes", body: { templateID: "base" } },
    { method: "POST", path: "/sandboxes", body: { templateID: "base" } },
    { method: "POST", path: `${running()}/fork` },
    { method: "POST", path: `${running()}/pause` },
    { method: "POST", path: `/v2${paused()}/connect` },
    { method: "POST", path: `${paused()}/connect`, body: { timeout: 60 } },
    { method: "POST", path: `${paused()}/resume` },
    { method: "POST", path: `${running()}/timeout`, body: { timeout: 60 } },
    { method: "POST", path: `${running()}/refreshes` },
    { method: "POST", path: `${running()}/snapshots` },
    { method: "PUT", path: `${running()}/network`, body: {} },
    { method: "DELETE", path: running() },
    { method: "DELETE", path: `/templates/${snapshot}` },
    { method: "POST", path: `/torpor/snapshots/${pooled}/pool`, body: { count: 1 } },
  ];
}

test("slow work of every verb is answered with what it did, with and without a body, on all listeners", async () => {
  await using all = await startAllListeners({ validator: trusting, limits });
  const { api } = all;
  const calls = [];
  for (const name of listenerNames) {
    for (const withBody of [true, false]) {
      for (const { method, path, body } of await verbsOf(api)) {
        if (withBody || body === undefined) {
          const text = withBody ? JSON.stringify(body ?? {}) : undefined;
          calls.push({ name, method, path, text });
        }
      }
    }
  }
  api.sandboxes.beforeWork = () => sleep(workMs);
  await Promise.all(
    calls.map(async ({ name, method, path, text }) => {
      const what = `${method} ${path} on ${name} with body ${text}`;
      const answer = await all.call(name, method, path, text);
      assert.ok(answer.status >= 200 && answer.status < 300, `${what}: ${answer.text}`);
    }),
  );
});

const behind: Readonly<Record<string, string>> = {
  "half of another request": "GET /heal",
  "what is no HTTP": "\u0000\u0001\r\n\r\n",
  "another request with broken headers":
    "GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
};

for (const [what, bytes] of Object.entries(behind)) {
  test(`${what} behind a request is not taken for its answer`, async () => {
    await using all = await startAllListeners({ validator: trusting, limits });
    all.api.sandboxes.beforeWork = () => sleep(workMs);
    await Promise.all(
      (["Unix socket", "TCP", "TLS"] as const).map(async (name) => {
        const { id } = all.api.sandboxes.add().record;
        const socket = await all.dial(name);
        socket.write(`DELETE /sandboxes/${id} HTTP/1.1\r\nHost: a\r\n\r\n`);
        await sleep(100);
        socket.write(bytes);
        const text = await textOf(socket);
        assert.match(text, /^HTTP\/1\.1 204 /, `${name}: ${text}`);
        assert.throws(() => all.api.sandboxes.get(id), { code: "sandbox.notFound" });
      }),
    );
  });
}

test("a body that trickles in over HTTP/2 is answered 408, and the other streams of its session go on", async () => {
  await using all = await startAllListeners({ validator: trusting, limits });
  const session = all.openSession();
  all.api.sandboxes.beforeWork = () => sleep(workMs);
  const { id } = all.api.sandboxes.add().record;
  const other = session.request({ ":method": "DELETE", ":path": `/sandboxes/${id}` });
  const slow = session.request({ ":method": "POST", ":path": "/v2/sandboxes" });
  const trickle = setInterval(() => void (slow.writable && slow.write(" ")), 50);
  slow.on("error", () => undefined);
  const [head] = (await once(slow, "response")) as [Readonly<Record<string, unknown>>];
  assert.equal(head[":status"], 408);
  assert.match(await textOf(slow), /"error_code":"request\.slow","effect":"none"/);
  const [otherHead] = (await once(other, "response")) as [Readonly<Record<string, unknown>>];
  assert.equal(otherHead[":status"], 204);
  clearInterval(trickle);
  session.destroy();
});

test("a body over HTTP/2 is read, whether its type and length are said or not", async () => {
  await using all = await startAllListeners({ validator: trusting, limits });
  const session = all.openSession();
  const stream = session.request({ ":method": "POST", ":path": "/v2/sandboxes" });
  stream.end(JSON.stringify({ templateID: "base" }));
  const [head] = (await once(stream, "response")) as [Readonly<Record<string, unknown>>];
  assert.equal(head[":status"], 201, await textOf(stream));
  session.close();
});

test("a body of broken chunks is refused at once, and nothing is made", async () => {
  await using all = await startAllListeners({ validator: trusting, limits });
  const socket = await all.dial("TCP");
  socket.write("POST /v2/sandboxes HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
  await sleep(100);
  socket.write("not a length\r\n");
  assert.match(await textOf(socket), /^HTTP\/1\.1 400 [^]*"error_code":"argument\.invalid"/);
  assert.equal(all.api.sandboxes.all().length, 0);
});

test("an answer that comes before its work is done says that the work may take effect", async () => {
  const policy = { answerMsMax: 200 };
  await using all = await startAllListeners({ validator: trusting, policy });
  const { sandboxes } = all.api;
  const { id } = sandboxes.add({ state: { kind: "paused" } }).record;
  const gate = Promise.withResolvers<void>();
  sandboxes.beforeWork = () => gate.promise;
  const late = [
    ["/v2/sandboxes", JSON.stringify({ templateID: "base" })],
    [`/v2/sandboxes/${id}/connect`, "{}"],
    [`/sandboxes/${id}/connect`, '{"timeout":60}'],
    [`/sandboxes/${id}/resume`, undefined],
  ] as const;
  for (const [path, body] of late) {
    const { status, text } = await all.call("TCP", "POST", path, body);
    assert.equal(status, 504, `${path}: ${text}`);
    assert.match(text, /"error_code":"deadline\.exceeded","effect":"maybe"/);
  }
  gate.resolve();
  while (sandboxes.get(id).record.state.kind !== "running") await sleep(10);
});
