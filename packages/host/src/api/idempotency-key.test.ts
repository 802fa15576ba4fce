/** The header `Idempotency-Key` over real HTTP, with sandboxes that are records only. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { TorporError } from "@torpor/std";
import { Ajv2020 } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { type Answer, type CallOptions, type FakeApi, startFakeApi } from "./fixtures.ts";

async function start(t: TestContext, options: object = {}): Promise<FakeApi> {
  const validator = new Ajv2020({ strict: false });
  addFormats.default(validator);
  const api = await startFakeApi({ validator, ...options });
  t.after(() => api[Symbol.asyncDispose]());
  return api;
}

function withKey(key: string, body?: object): CallOptions {
  return { body, headers: { "idempotency-key": key } };
}

const base = { templateID: "base" };

/** Lets the next creates wait until it is opened; tells when the first is there. */
function holdCreates({ sandboxes }: FakeApi): { reached: Promise<void>; open: () => void } {
  const gate = Promise.withResolvers<void>();
  const reached = Promise.withResolvers<void>();
  sandboxes.beforeWork = async () => {
    reached.resolve();
    await gate.promise;
  };
  return { reached: reached.promise, open: gate.resolve };
}

function errorCode({ body }: Answer): unknown {
  return (body as Record<string, unknown>)["error_code"];
}

test("a create with the same key makes one sandbox, in turn and at once", async (t) => {
  const api = await start(t);
  for (const path of ["/sandboxes", "/v2/sandboxes"]) {
    const before = api.sandboxes.all().length;
    const first = await api.call("POST", path, withKey(path, base));
    assert.equal(first.status, 201, first.text);
    const again = await api.call("POST", path, withKey(path, base));
    assert.deepEqual([again.status, again.body], [201, first.body]);
    const { reached, open } = holdCreates(api);
    const atOnce = [1, 2, 3].map(() => api.call("POST", path, withKey(`${path} at once`, base)));
    await reached;
    open();
    const [one, ...others] = await Promise.all(atOnce);
    for (const other of others) assert.deepEqual(other.body, one?.body);
    assert.equal(api.sandboxes.all().length, before + 2);
  }
});

test("a key is refused with another request, and one that is no key", async (t) => {
  const api = await start(t);
  const key = "x".repeat(255);
  assert.equal((await api.call("POST", "/v2/sandboxes", withKey(key, base))).status, 201);
  const others: readonly (readonly [string, object])[] = [
    ["/v2/sandboxes", { ...base, timeout: 60 }],
    ["/sandboxes", base],
    [`/sandboxes/${api.sandboxes.add().record.id}/fork`, {}],
  ];
  for (const [path, body] of others) {
    const answer = await api.call("POST", path, withKey(key, body));
    assert.deepEqual([answer.status, errorCode(answer)], [422, "request.keyReused"], path);
  }
  const { reached, open } = holdCreates(api);
  const underWay = api.call("POST", "/v2/sandboxes", withKey("under way", base));
  await reached;
  const other = await api.call("POST", "/sandboxes", withKey("under way", base));
  assert.deepEqual([other.status, errorCode(other)], [422, "request.keyReused"]);
  open();
  assert.equal((await underWay).status, 201);
  const count = api.sandboxes.all().length;
  for (const wrong of ["", "x".repeat(256), "a\tb", "é"]) {
    const answer = await api.call("POST", "/v2/sandboxes", withKey(wrong, base));
    assert.deepEqual([answer.status, errorCode(answer)], [400, "argument.invalid"], wrong);
  }
  assert.equal(api.sandboxes.all().length, count);
});

test("a key whose request made nothing may be tried again, changed or not", async (t) => {
  const api = await start(t);
  api.sandboxes.beforeWork = () => Promise.reject(new TorporError("host.busy", "too many"));
  const busy = await api.call("POST", "/v2/sandboxes", withKey("a", base));
  assert.equal(busy.status, 429);
  const wrong = await api.call("POST", "/v2/sandboxes", withKey("a", { ...base, timeout: -1 }));
  assert.equal(wrong.status, 400);
  api.sandboxes.beforeWork = () => Promise.resolve();
  assert.equal((await api.call("POST", "/v2/sandboxes", withKey("a", base))).status, 201);
  assert.equal(api.sandboxes.all().length, 1);
});

test("a create that took too long is joined by its repeat, and not taken back", async (t) => {
  const api = await start(t, { policy: { answerMsMax: 20 } });
  const { open } = holdCreates(api);
  const late = await api.call("POST", "/v2/sandboxes", withKey("a", base));
  assert.deepEqual([late.status, errorCode(late)], [504, "deadline.exceeded"]);
  open();
  let repeat = late;
  while (repeat.status === 504) {
    repeat = await api.call("POST", "/v2/sandboxes", withKey("a", base));
  }
  assert.equal(repeat.status, 201, repeat.text);
  assert.equal(api.sandboxes.all().length, 1);
});

test("a fork with the same key makes no more children than were asked for", async (t) => {
  const api = await start(t);
  const path = `/sandboxes/${api.sandboxes.add().record.id}/fork`;
  const first = await api.call("POST", path, withKey("a", { count: 4 }));
  const again = await api.call("POST", path, withKey("a", { count: 4 }));
  assert.equal(first.status, 201);
  assert.deepEqual(again.body, first.body);
  assert.equal(api.sandboxes.all().length, 1 + 3);
  const [, , third] = again.body as { error?: { error_code: string } }[];
  assert.equal(third?.error?.error_code, "storage.noSpace");
});

test("a snapshot with the same key is taken once, with its name and its tag", async (t) => {
  const api = await start(t);
  const path = `/sandboxes/${api.sandboxes.add().record.id}/snapshots`;
  for (const name of ["plain", "tagged:v1"]) {
    const first = await api.call("POST", path, withKey(name, { name }));
    assert.equal(first.status, 201, first.text);
    const again = await api.call("POST", path, withKey(name, { name }));
    assert.deepEqual(again.body, first.body);
    assert.deepEqual((first.body as { names: string[] }).names, [name]);
  }
  assert.equal(api.sandboxes.snapshots.all().length, 2);
  const { id } = api.sandboxes.snapshots.get("plain");
  await api.call("DELETE", `/templates/${id}`);
  const gone = await api.call("POST", path, withKey("plain", { name: "plain" }));
  assert.deepEqual([gone.status, errorCode(gone)], [404, "template.missing"]);
  assert.equal(api.sandboxes.snapshots.all().length, 1);
});

test("what was made and is gone is not made again", async (t) => {
  const api = await start(t);
  const first = await api.call("POST", "/v2/sandboxes", withKey("a", base));
  const { sandboxID } = first.body as { sandboxID: string };
  await api.call("DELETE", `/sandboxes/${sandboxID}`);
  const gone = await api.call("POST", "/v2/sandboxes", withKey("a", base));
  assert.equal(gone.status, 404);
  const { error_code, effect, message } = gone.body as Record<string, string>;
  assert.deepEqual([error_code, effect], ["sandbox.notFound", "done"]);
  assert.ok(message?.includes(sandboxID));
  assert.deepEqual(api.sandboxes.all(), []);
});

test("keys of two callers are two", async (t) => {
  const api = await start(t, { requireKey: true });
  const ids = new Set<unknown>();
  const keys = [await api.host.apiKeys.create("a"), await api.host.apiKeys.create("b")];
  for (const { key } of [...keys, ...keys]) {
    const headers = { "x-api-key": key, "idempotency-key": "same" };
    const answer = await api.call("POST", "/v2/sandboxes", { body: base, headers });
    assert.equal(answer.status, 201, answer.text);
    ids.add((answer.body as { sandboxID: string }).sandboxID);
  }
  assert.equal(ids.size, 2);
  assert.equal(api.sandboxes.all().length, 2);
});

test("where a repeat changes nothing the header means nothing, and where no key is kept it is refused", async (t) => {
  const api = await start(t);
  const { id } = api.sandboxes.add().record;
  for (const [method, path, status] of [
    ["POST", `/sandboxes/${id}/pause`, 204],
    ["POST", `/v2/sandboxes/${id}/connect`, 201],
    ["POST", `/v2/sandboxes/${id}/connect`, 200],
    ["GET", "/v2/sandboxes", 200],
    ["DELETE", `/sandboxes/${id}`, 204],
  ] as const) {
    const options = withKey("same", method === "POST" ? {} : undefined);
    assert.equal((await api.call(method, path, options)).status, status, path);
  }
  const before = api.host.apiKeys.list().length;
  for (const path of ["/api-keys", "/access-tokens", "/torpor/api-keys"]) {
    const answer = await api.call("POST", path, withKey("same", { name: "mine" }));
    assert.deepEqual([answer.status, errorCode(answer)], [501, "operation.unimplemented"], path);
  }
  assert.equal(api.host.apiKeys.list().length, before);
});

test("every route that makes something new says what its repeat does", async (t) => {
  const { routes } = await start(t);
  for (const { method, path, answers, onRepeat } of routes) {
    if (method !== "POST" || !("201" in answers)) continue;
    // These answer 201 when they changed something, and change nothing when they are repeated.
    const isIdempotent = /\/(connect|resume|tags)$/.test(path);
    assert.equal(onRepeat === undefined, isIdempotent, path);
  }
});
