/**
 * A client that has no answer sends its request again, with the same `Idempotency-Key`. What it asked
 * for is there once: when both are under way, when the first was answered, and when the daemon was
 * killed before, while or after it was made.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { test } from "node:test";
import { parseJson } from "@torpor/std";
import { stateFiles } from "@torpor/storage";
import {
  type ApiAnswer,
  type DaemonApi,
  type DeathPoint,
  StateFolder,
  TestSandbox,
  spawnTestDaemon,
  startTestDaemon,
  waitUntil,
} from "@torpor/testing";

const connectionLost = /ECONNRESET|socket hang up/;

function send(api: DaemonApi, path: string, key: string, body: object): Promise<ApiAnswer> {
  return api.exchange("POST", path, body, { "idempotency-key": key });
}

function create(api: DaemonApi, key: string): Promise<ApiAnswer> {
  return send(api, "/v2/sandboxes", key, { templateID: "base", timeoutMs: null });
}

function fork(api: DaemonApi, id: string, key: string, count: number): Promise<ApiAnswer> {
  return send(api, `/sandboxes/${id}/fork`, key, { count, timeoutMs: null });
}

/** The one that was made, or is answered with. */
async function madeOf(api: DaemonApi, { status, text }: ApiAnswer): Promise<TestSandbox> {
  assert.equal(status, 201, text);
  const { sandboxID } = parseJson(text, "answer") as { sandboxID: string };
  return await TestSandbox.find(api, sandboxID);
}

function childrenOf({ status, text }: ApiAnswer): readonly string[] {
  assert.equal(status, 201, text);
  const results = parseJson(text, "answer") as { sandbox?: { sandboxID: string } }[];
  return results.flatMap(({ sandbox }) => (sandbox === undefined ? [] : [sandbox.sandboxID]));
}

/** The text of an answer without the port in `domain`: each daemon of these tests has another. */
function textBesidesPort({ text }: ApiAnswer): string {
  return text.replaceAll(/("domain":"localhost):\d+"/g, '$1"');
}

async function idsOf(api: DaemonApi): Promise<readonly string[]> {
  return (await api.list()).map(({ id }) => id).sort();
}

test("requests that are sent again while the daemon lives take effect once", async (t) => {
  await using daemon = await startTestDaemon();
  const { api } = daemon;
  const [one, other] = await Promise.all([create(api, "a"), create(api, "a")]);
  const sandbox = await madeOf(api, one);
  assert.equal(other.text, one.text);
  assert.equal((await create(api, "a")).text, one.text);
  assert.equal(await sandbox.shell("echo it runs"), "it runs");
  assert.deepEqual(await idsOf(api), [sandbox.id]);

  await t.test("a fork", async () => {
    const [first, again] = await Promise.all([
      fork(api, sandbox.id, "b", 2),
      fork(api, sandbox.id, "b", 2),
    ]);
    assert.equal(again.text, first.text);
    assert.equal((await fork(api, sandbox.id, "b", 2)).text, first.text);
    const children = childrenOf(first);
    assert.equal(children.length, 2);
    assert.deepEqual(await idsOf(api), [sandbox.id, ...children].sort());
    assert.equal((await daemon.state.vms()).length, 3);
  });

  await t.test("a snapshot, of one that runs and of one that sleeps", async () => {
    const path = `/sandboxes/${sandbox.id}/snapshots`;
    for (const key of ["runs", "sleeps"]) {
      if (key === "sleeps") await sandbox.pause();
      const first = await send(api, path, key, { name: `${key}:v1` });
      assert.equal(first.status, 201, first.text);
      assert.equal((await send(api, path, key, { name: `${key}:v1` })).text, first.text);
    }
    const { text } = await api.call("GET", "/snapshots");
    assert.equal((parseJson(text, "snapshots") as unknown[]).length, 2);
  });
});

test("a spare that is handed out for a key is handed out once, also to the next daemon", async () => {
  await using daemon = await startTestDaemon({ spareCount: 1 });
  await waitUntil("a spare is ready", async () => daemon.sandboxes.sparesReady === 1 || undefined);
  const [spare] = await daemon.state.sandboxIds();
  const [one, other] = await Promise.all([create(daemon.api, "a"), create(daemon.api, "a")]);
  const sandbox = await madeOf(daemon.api, one);
  assert.equal(sandbox.id, spare);
  assert.equal(other.text, one.text);
  await daemon.stop();
  await daemon.start();
  assert.equal(textBesidesPort(await create(daemon.api, "a")), textBesidesPort(one));
  assert.deepEqual(await idsOf(daemon.api), [sandbox.id]);
});

test("requests that are sent again after the daemon was killed take effect once", async (t) => {
  await using state = await StateFolder.make();

  /** Has the daemon die in the midst of it. */
  const dieDuring = async (
    point: DeathPoint,
    ask: (api: DaemonApi) => Promise<unknown>,
  ): Promise<void> => {
    await using daemon = await spawnTestDaemon(state, point);
    await assert.rejects(ask(daemon.api), connectionLost);
    await daemon.ended();
  };

  for (const point of [
    { moment: "before", step: "check" },
    { moment: "after", step: "init" },
  ] as const) {
    await t.test(`a create whose daemon was killed ${point.moment} "${point.step}"`, async () => {
      const key = point.step;
      await dieDuring(point, (api) => create(api, key));
      await using daemon = await startTestDaemon({ state });
      assert.deepEqual(await idsOf(daemon.api), []);
      const first = await create(daemon.api, key);
      const sandbox = await madeOf(daemon.api, first);
      assert.equal((await create(daemon.api, key)).text, first.text);
      assert.deepEqual(await state.sandboxIds(), [sandbox.id]);
      assert.equal((await state.vms()).length, 1);
      await sandbox.remove();
      // It was made, and is not made again.
      assert.equal((await create(daemon.api, key)).status, 404);
      assert.deepEqual(await idsOf(daemon.api), []);
    });
  }

  let parentId = "";
  await t.test("a create whose daemon was killed before it was noted", async () => {
    let answer: ApiAnswer | undefined;
    {
      await using daemon = await spawnTestDaemon(state);
      answer = await create(daemon.api, "a");
      await daemon.kill();
    }
    // As it is between the record of a sandbox that runs and the note of it.
    unnote(state, "a");
    await using daemon = await startTestDaemon({ state });
    const sandbox = await madeOf(daemon.api, answer);
    parentId = sandbox.id;
    assert.equal(textBesidesPort(await create(daemon.api, "a")), textBesidesPort(answer));
    assert.deepEqual(await idsOf(daemon.api), [sandbox.id]);
  });

  await t.test("a fork whose daemon was killed when some children were there", async () => {
    {
      await using daemon = await spawnTestDaemon(state);
      const asked = fork(daemon.api, parentId, "b", 3).catch((cause: unknown) => cause);
      await waitUntil("the first child is there", async () => {
        const running = (await daemon.api.list()).filter(({ state: now }) => now === "running");
        return running.length > 1 || undefined;
      });
      await daemon.kill();
      await asked;
    }
    await using daemon = await startTestDaemon({ state });
    const settled = (await idsOf(daemon.api)).filter((id) => id !== parentId);
    assert.ok(settled.length >= 1 && settled.length <= 3);
    const first = await fork(daemon.api, parentId, "b", 3);
    assert.deepEqual([...childrenOf(first)].sort(), settled);
    assert.equal((parseJson(first.text, "answer") as unknown[]).length, 3);
    assert.equal((await fork(daemon.api, parentId, "b", 3)).text, first.text);
    assert.deepEqual(await idsOf(daemon.api), [parentId, ...settled].sort());
    assert.equal((await state.vms()).length, 1 + settled.length);
    for (const id of settled) await (await TestSandbox.find(daemon.api, id)).remove();
  });

  await t.test("a fork whose daemon was killed before any child was there", async () => {
    await dieDuring({ moment: "before", step: "init" }, (api) => fork(api, parentId, "c", 2));
    await using daemon = await startTestDaemon({ state });
    assert.deepEqual(await idsOf(daemon.api), [parentId]);
    const children = childrenOf(await fork(daemon.api, parentId, "c", 2));
    assert.equal(children.length, 2);
    assert.deepEqual(await idsOf(daemon.api), [parentId, ...children].sort());
    for (const id of children) await (await TestSandbox.find(daemon.api, id)).remove();
  });

  await t.test("a snapshot whose daemon was killed after it was published", async () => {
    const take = (api: DaemonApi): Promise<ApiAnswer> =>
      send(api, `/sandboxes/${parentId}/snapshots`, "d", { name: "mine" });
    await dieDuring({ moment: "after", step: "publish" }, take);
    await using daemon = await startTestDaemon({ state });
    assert.equal((await daemon.api.call("GET", "/snapshots")).text, "[]");
    const first = await take(daemon.api);
    assert.equal(first.status, 201, first.text);
    assert.equal((await take(daemon.api)).text, first.text);
    const { text } = await daemon.api.call("GET", "/snapshots");
    assert.equal((parseJson(text, "snapshots") as unknown[]).length, 1);
    await daemon.sandboxes.removeSnapshot("mine");
    await daemon.sandboxes.remove(parentId);
    await daemon.idle();
  });
});

/** While no daemon runs: takes back what the newest daemon noted last. */
function unnote(state: StateFolder, key: string): void {
  using database = new DatabaseSync(join(state.path, stateFiles.database));
  const update = "UPDATE idempotency_keys SET made = NULL WHERE idempotency_key = ?";
  assert.equal(database.prepare(update).run(key).changes, 1);
}
