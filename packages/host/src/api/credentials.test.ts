/** Which callers are admitted, by which credentials, how often; and the keys themselves. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { Ajv2020 } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { teamId } from "../team.ts";
import { type FakeApi, startFakeApi } from "./fixtures.ts";
import { RateLimits } from "./rate-limits.ts";

async function start(t: TestContext, options: object = {}): Promise<FakeApi> {
  const validator = new Ajv2020({ strict: false });
  addFormats.default(validator);
  const api = await startFakeApi({ validator, requireKey: true, ...options });
  t.after(() => api[Symbol.asyncDispose]());
  return api;
}

test("everything but health and the document asks for a key", async (t) => {
  const api = await start(t);
  for (const { method, path, access } of api.routes) {
    const given = path.replaceAll(/\{\w+\}/g, "x");
    const { status, body } = await api.call(method, given);
    assert.equal(status === 401, access !== "open", `${method} ${path}`);
    if (status === 401) assert.equal((body as { code: number }).code, 401);
  }
  assert.equal((await api.call("GET", "/nowhere")).status, 401);
  const { key } = await api.host.apiKeys.create("one");
  for (const wrong of [`${key}0`, key.toUpperCase(), `e2b_${"0".repeat(40)}`, "", "e2b_"]) {
    const headers = { "x-api-key": wrong };
    assert.equal((await api.call("GET", "/v2/sandboxes", { headers })).status, 401, wrong);
  }
});

test("whoever names a sandbox wrongly by the host is told so, and not that a key is missing", async (t) => {
  const api = await start(t);
  const { key } = await api.host.apiKeys.create("one");
  // The domain here is box.localhost.
  const hosts: readonly (readonly [string, number])[] = [
    ["shop.box.localhost:7443", 421],
    ["inone.box.localhost", 421],
    ["3000-iabc.e2b.app", 421],
    ["api.box.localhost", 401],
    ["box.localhost", 401],
    ["127.0.0.1:7330", 401],
    ["example.com", 401],
  ];
  for (const [host, status] of hosts) {
    const answer = await api.call("GET", "/v2/sandboxes", { headers: { host } });
    assert.equal(answer.status, status, host);
    if (status === 421) assert.match(answer.text, /PORT-ID\.box\.localhost:7443/);
    const known = { headers: { host, "x-api-key": key } };
    assert.equal((await api.call("GET", "/v2/sandboxes", known)).status, 200, host);
  }
});

test("an API key opens the sandboxes, and an access token the keys too", async (t) => {
  const api = await start(t);
  const { key } = await api.host.apiKeys.create("one");
  const { key: token } = await api.host.accessTokens.create("mine");
  const byKey = { headers: { "x-api-key": key } };
  const byToken = { headers: { authorization: `Bearer ${token}` } };
  assert.equal((await api.call("GET", "/v2/sandboxes", byKey)).status, 200);
  assert.equal((await api.call("GET", "/v2/sandboxes", byToken)).status, 200);
  assert.equal((await api.call("GET", "/teams", byKey)).status, 401);
  const asKey = { headers: { "x-api-key": token } };
  assert.equal((await api.call("GET", "/v2/sandboxes", asKey)).status, 401);
  const other = { headers: { ...byToken.headers, "x-team-id": "another" } };
  assert.equal((await api.call("GET", "/teams", other)).status, 403);
  const ours = { headers: { ...byToken.headers, "x-team-id": teamId } };
  const [team] = (await api.call("GET", "/teams", ours)).body as Record<string, unknown>[];
  assert.deepEqual([team?.["teamID"], team?.["isDefault"]], [teamId, true]);
  const minted = { headers: { "x-api-key": String(team?.["apiKey"]) } };
  assert.equal((await api.call("GET", "/v2/sandboxes", minted)).status, 200);
});

test("keys are made, named, listed without themselves, and taken back", async (t) => {
  const api = await start(t);
  const { key: token, id: tokenId } = await api.host.accessTokens.create("mine");
  const headers = { authorization: `Bearer ${token}` };
  const made = await api.call("POST", "/api-keys", { headers, body: { name: "ci" } });
  assert.equal(made.status, 201);
  const { id, key } = made.body as { id: string; key: string };
  assert.match(key, /^e2b_[0-9a-f]{40}$/);
  const patched = await api.call("PATCH", `/api-keys/${id}`, { headers, body: { name: "cd" } });
  assert.deepEqual([patched.status, patched.headers["content-length"]], [200, "0"]);
  const listed = await api.call("GET", "/api-keys", { headers });
  assert.ok(!listed.text.includes(key));
  const [only] = listed.body as { name: string; mask: Record<string, unknown> }[];
  assert.equal(only?.name, "cd");
  assert.deepEqual(only?.mask, {
    prefix: "e2b_",
    valueLength: 40,
    maskedValuePrefix: key.slice(4, 10),
    maskedValueSuffix: key.slice(-4),
  });
  const use = async (): Promise<number> =>
    (await api.call("GET", "/v2/sandboxes", { headers: { "x-api-key": key } })).status;
  assert.equal(await use(), 200);
  assert.equal((await api.call("DELETE", `/api-keys/${id}`, { headers })).status, 204);
  assert.equal(await use(), 401);
  assert.equal((await api.call("DELETE", `/api-keys/${id}`, { headers })).status, 404);
  const body = { name: "theirs" };
  const second = await api.call("POST", "/access-tokens", { headers, body });
  assert.match((second.body as { token: string }).token, /^sk_e2b_[0-9a-f]{40}$/);
  assert.equal((await api.call("DELETE", `/access-tokens/${tokenId}`, { headers })).status, 204);
  assert.equal((await api.call("GET", "/api-keys", { headers })).status, 401);
});

test("one key that asks too often is told when to come back, and others are not", async (t) => {
  const api = await start(t, { policy: { requestsMax: 3 } });
  const one = { headers: { "x-api-key": (await api.host.apiKeys.create("one")).key } };
  const two = { headers: { "x-api-key": (await api.host.apiKeys.create("two")).key } };
  const answers = [];
  for (let round = 0; round < 4; round += 1) {
    answers.push(await api.call("GET", "/v2/sandboxes", one));
  }
  assert.deepEqual(
    answers.map(({ status }) => status),
    [200, 200, 200, 429],
  );
  assert.deepEqual(
    answers.map(({ headers }) => headers["ratelimit-remaining"]),
    ["2", "1", "0", "0"],
  );
  const refused = answers.at(-1);
  assert.match(String(refused?.headers["retry-after"]), /^[1-9][0-9]*$/);
  assert.match(refused?.text ?? "", /"code":429/);
  assert.equal((await api.call("GET", "/v2/sandboxes", two)).status, 200);
  assert.equal((await api.call("GET", "/health", one)).status, 204);
});

test("a bucket that is empty has a token when it said so, and not before", () => {
  let nowMs = 0;
  const limits = new RateLimits(10, () => nowMs);
  const ask = (): string | undefined => limits.take("a").headers["retry-after"];
  for (let round = 0; round < 10; round += 1) assert.equal(ask(), undefined);
  assert.equal(ask(), "3");
  nowMs += 2_999;
  assert.equal(ask(), "1");
  nowMs += 1;
  assert.equal(ask(), undefined);
  nowMs += 1_000_000;
  for (let round = 0; round < 10; round += 1) assert.equal(ask(), undefined);
  assert.equal(ask(), "3");
  assert.deepEqual(new RateLimits(0).take("a"), { headers: {}, refusal: undefined });
});
