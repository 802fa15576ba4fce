/**
 * The advice of each error leads somewhere: no client is advised to set a machine up because a name
 * is wrong.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type SchemaValidator, startFakeApi } from "./fixtures.ts";

const trusting: SchemaValidator = { addSchema: () => undefined, compile: () => () => true };

test("a wrong template, snapshot or tag is told with where to look for the right one", async () => {
  await using api = await startFakeApi({ validator: trusting });
  const { id } = api.sandboxes.add().record;
  const created = (templateID: string) => ["POST", "/v2/sandboxes", { templateID }] as const;
  const wrong = [
    created("nothing"),
    created("base:v2"),
    created("nothing:v2"),
    created("x".repeat(20)),
    created("others/base"),
    ["GET", "/templates/nothing", undefined],
    ["GET", "/templates/aliases/nothing", undefined],
    ["GET", "/templates/nothing/tags", undefined],
    ["DELETE", "/templates/nothing", undefined],
    ["DELETE", `/templates/${"y".repeat(20)}`, undefined],
    ["POST", "/templates/tags", { target: "nothing", tags: ["a"] }],
    ["DELETE", "/templates/tags", { name: "base", tags: ["a"] }],
    ["POST", "/torpor/snapshots/nothing/pool", { count: 1 }],
  ] as const;
  for (const [method, path, body] of wrong) {
    const answer = await api.call(method, path, { body });
    const what = `${method} ${path} ${JSON.stringify(body)}: ${answer.text}`;
    assert.equal(answer.status, 404, what);
    const { advice, message } = answer.body as Record<string, string>;
    assert.doesNotMatch(advice ?? "", /torpor up/, what);
    assert.match(advice ?? "", /torpor snapshot ls|GET \/templates|team here/, what);
    assert.doesNotMatch(message ?? "", /manifest|\/templates\//, what);
  }
  assert.ok(api.sandboxes.get(id));
});

test("a sandbox that is being paused ends now, and not when its last run did", async () => {
  await using api = await startFakeApi({ validator: trusting });
  const sandbox = api.sandboxes.add();
  const hourAgoMs = Date.now() - 3_600_000;
  sandbox.change({
    startedAtMs: hourAgoMs,
    lifetime: { ...sandbox.record.lifetime, endedAtMs: hourAgoMs - 3_600_000 },
    state: { ...sandbox.record.state, kind: "pausing", snapshotId: "s" } as never,
  });
  const { body } = await api.call("GET", `/sandboxes/${sandbox.record.id}`);
  const { endAt, state } = body as { endAt: string; state: string };
  assert.equal(state, "paused");
  assert.ok(Math.abs(Date.parse(endAt) - Date.now()) < 60_000, endAt);
});
