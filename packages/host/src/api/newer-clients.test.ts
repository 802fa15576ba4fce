/**
 * Requests of clients newer than this daemon: each field is honoured, or refused by name, and never
 * ignored in silence. E2B's clients repeat a request by themselves only where that is safe and
 * useful.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type ErrorCode, TorporError, errorTable } from "@torpor/std";
import { type Answer, type FakeApi, type SchemaValidator, startFakeApi } from "./fixtures.ts";
import { type Schema, schemas } from "./openapi/schemas.ts";

const trusting: SchemaValidator = { addSchema: () => undefined, compile: () => () => true };
const base = { templateID: "base" };

type Sent = readonly [method: string, path: string, body: object];

function createWith(fields: object): Sent {
  return ["POST", "/v2/sandboxes", { ...base, ...fields }];
}

/** A sandbox of its own each time. */
function on(api: FakeApi, method: string, path: string, body: object): Sent {
  return [method, `/sandboxes/${api.sandboxes.add().record.id}${path}`, body];
}

async function send(api: FakeApi, [method, path, body]: Sent): Promise<Answer> {
  return await api.call(method, path, { body });
}

test("fields of newer clients are honoured, or refused by name", async () => {
  await using api = await startFakeApi({ validator: trusting });
  const network = (fields: object): Sent => createWith({ network: fields });
  const update = (fields: object): Sent => on(api, "PUT", "/network", fields);
  const table: readonly (readonly [number, string, Sent])[] = [
    // Honoured, or asking for nothing.
    [201, "", createWith({ cpuCount: 1, memoryMB: 512 })],
    [201, "", createWith({ volumeMounts: [], iam: { tokens: {} }, mcp: { some: {} } })],
    [201, "", createWith({ unheardOf: null, alsoUnheardOf: {}, andThat: [] })],
    [201, "", createWith({ autoPause: true, autoPauseMemory: true })],
    [201, "", network({ dnsServers: [], rules: {}, egressProxy: null, httpsPorts: [] })],
    [201, "", on(api, "POST", "/snapshots", {})],
    [201, "", on(api, "POST", "/snapshots", { memory: true })],
    [204, "", on(api, "POST", "/pause", { requireHealthyGuest: true })],
    [204, "", update({ dnsServers: [] })],
    // Refused.
    [400, "cpuCount", createWith({ cpuCount: 2 })],
    [400, "memoryMB", createWith({ memoryMB: 1024 })],
    [400, "1 CPU and 512 MiB", createWith({ cpuCount: 4, memoryMB: 512 })],
    [400, "cpuCount", createWith({ cpuCount: "1" })],
    [400, "unheardOf", createWith({ unheardOf: true })],
    [400, "unheardOf", createWith({ unheardOf: false })],
    [400, "network.unheardOf", network({ unheardOf: ["a"] })],
    [400, "autoResume.unheardOf", createWith({ autoResume: { enabled: true, unheardOf: 1 } })],
    [
      400,
      "__proto__",
      ["POST", "/v2/sandboxes", JSON.parse('{"templateID":"base","__proto__":{"a":1}}') as object],
    ],
    [501, "dnsServers", network({ dnsServers: ["1.1.1.1"] })],
    [501, "dnsServers", update({ dnsServers: ["1.1.1.1"] })],
    [501, "memory: false", on(api, "POST", "/snapshots", { name: "n", memory: false })],
    [501, "memory: false", on(api, "POST", "/pause", { memory: false })],
    [501, "memory: false", on(api, "POST", "/connect", { timeout: 7, memory: false })],
    [400, "requireHealthyGuest", on(api, "POST", "/pause", { requireHealthyGuest: "yes" })],
    [400, "cpuCount", on(api, "POST", "/fork", { cpuCount: 2 })],
  ];
  for (const [status, named, sent] of table) {
    const before = api.sandboxes.all().length;
    const answer = await send(api, sent);
    assert.equal(answer.status, status, `${JSON.stringify(sent)}: ${answer.text}`);
    assert.ok(answer.text.includes(named), answer.text);
    if (status >= 400) assert.equal(api.sandboxes.all().length, before, "nothing was made");
  }
});

test("every body of every route takes no field that the document does not list", async () => {
  await using api = await startFakeApi({ validator: trusting });
  const { id } = api.sandboxes.add().record;
  for (const { method, path, body } of api.routes) {
    if (body === undefined) continue;
    const url = path.replaceAll(/\{\w+\}/g, id);
    const schema: Schema = schemas[body.schema];
    const required = (schema["required"] ?? []) as readonly string[];
    const rest = Object.fromEntries(required.map((name) => [name, "x"]));
    const answer = await send(api, [method, url, { ...rest, unheardOf: 1 }]);
    assert.equal(answer.status, 400, `${method} ${path}: ${answer.text}`);
    assert.match(answer.text, /unheardOf is no field/, `${method} ${path}`);
  }
});

test("an environment that no process can have is refused before anything is made", async () => {
  await using api = await startFakeApi({ validator: trusting });
  for (const envVars of [{ "": "a" }, { "A=B": "c" }, { "=": "" }, { A: "b\0c" }, { "A\0": "b" }]) {
    const answer = await send(api, createWith({ envVars }));
    assert.equal(answer.status, 400, JSON.stringify(envVars));
    assert.match(answer.text, /envVars/);
  }
  assert.deepEqual(api.sandboxes.all(), []);
  assert.equal((await send(api, createWith({ envVars: { "A b": "=\n", é: "" } }))).status, 201);
});

test("clients are told not to repeat what would not help, or would be done twice", async () => {
  await using api = await startFakeApi({ validator: trusting });
  const { id } = api.sandboxes.add().record;
  const keyed = { "Idempotency-Key": "one" };
  for (const code of Object.keys(errorTable) as ErrorCode[]) {
    const error = new TorporError(code, "so it is");
    api.sandboxes.beforeWork = () => Promise.reject(error);
    const isRepeated = [429, 502, 503, 504].includes(error.status);
    const helps = error.retry === "sameRequest";
    const doubles = error.effect !== "none";
    const sent: readonly (readonly [string, string, Record<string, string>, boolean])[] = [
      ["POST", "/v2/sandboxes", {}, helps && !doubles],
      ["POST", "/v2/sandboxes", keyed, helps],
      ["POST", `/sandboxes/${id}/pause`, {}, helps],
    ];
    for (const [method, path, headers, mayRepeat] of sent) {
      const answer = await api.call(method, path, {
        body: path.startsWith("/v2") ? base : {},
        headers,
      });
      assert.equal(answer.status, error.status);
      const wanted = isRepeated && !mayRepeat ? "false" : undefined;
      assert.equal(answer.headers["should-retry"], wanted, `${code} of ${method} ${path}`);
    }
  }
});

test("a daemon that ends starts nothing more, and says so to clients that repeat", async () => {
  await using api = await startFakeApi({ validator: trusting });
  const { id } = api.sandboxes.add().record;
  api.sandboxes.areEnding = true;
  for (const { method, path } of api.routes) {
    if (method === "GET") continue;
    const answer = await api.call(method, path.replaceAll(/\{\w+\}/g, id), { body: base });
    assert.equal(answer.status, 503, `${method} ${path}: ${answer.text}`);
    assert.match(answer.text, /"error_code":"daemon.ending","effect":"none"/);
    assert.equal(answer.headers["should-retry"], "false");
  }
  assert.equal((await api.call("GET", `/sandboxes/${id}`)).status, 200);
  assert.equal(api.sandboxes.all().length, 1);
});

test("templates are listed in pages for the clients of today", async () => {
  await using api = await startFakeApi({ validator: trusting });
  const all = await api.call("GET", "/templates");
  const first = await api.call("GET", "/v2/templates?limit=1");
  assert.deepEqual([first.status, first.body], [200, all.body]);
  assert.equal(first.headers["x-next-token"], undefined);
  assert.equal((await api.call("GET", "/v2/templates?nextToken=nothing")).status, 400);
});
