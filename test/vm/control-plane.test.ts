/**
 * The control plane over a sandbox that is really there: what raw HTTP requests of the E2B wire do to
 * it, and that its numbers and its logs are the guest's own.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type ApiAnswer,
  type TestDaemon,
  TestSandbox,
  startTestDaemon,
  waitUntil,
} from "@torpor/testing";

type Said = Record<string, unknown>;

function said(answer: ApiAnswer): Said {
  return JSON.parse(answer.text) as Said;
}

async function get({ api }: TestDaemon, path: string): Promise<Said> {
  const answer = await api.exchange("GET", path);
  assert.equal(answer.status, 200, answer.text);
  return said(answer);
}

/** To the next ten seconds: an emulated machine takes some for each call. */
function isAbout(endAt: unknown, seconds: number): boolean {
  return Math.abs(Date.parse(String(endAt)) - Date.now() - seconds * 1000) < 10_000;
}

test("the control plane", async (t) => {
  await using daemon = await startTestDaemon();
  const { api } = daemon;
  const asked = { templateID: "base", metadata: { story: "one" }, timeout: 600, autoPause: true };
  const created = await api.exchange("POST", "/v2/sandboxes", asked);
  assert.equal(created.status, 201, created.text);
  const id = String(said(created)["sandboxID"]);
  const sandbox = await TestSandbox.find(api, id);
  const path = `/sandboxes/${id}`;

  await t.test("create gives a sandbox that is listed, and ends when it was asked to", async () => {
    const detail = await get(daemon, path);
    assert.equal(detail["state"], "running");
    assert.ok(isAbout(detail["endAt"], 600));
    assert.deepEqual(detail["lifecycle"], { autoResume: false, onTimeout: "pause" });
    const listed = await get(daemon, "/v2/sandboxes?metadata=story%3Done&state=running");
    assert.deepEqual(
      [listed].flat().map(({ sandboxID }) => sandboxID),
      [id],
    );
    assert.equal(await sandbox.shell("echo $E2B_SANDBOX_ID"), id);
  });

  await t.test("metrics are what the guest says of itself", async () => {
    const [newest] = (await get(daemon, `${path}/metrics`)) as unknown as Said[];
    const kibibytes = Number(await sandbox.shell("awk '/MemTotal/ {print $2}' /proc/meminfo"));
    assert.equal(newest?.["memTotal"], kibibytes * 1024);
    assert.equal(newest?.["cpuCount"], 1);
    assert.ok(Number(newest?.["diskTotal"]) > Number(newest?.["diskUsed"]));
    const { sandboxes } = await get(daemon, `/sandboxes/metrics?sandbox_ids=${id}`);
    assert.deepEqual(Object.keys(sandboxes as object), [id]);
  });

  await t.test("logs are what the guest printed on its console", async () => {
    await sandbox.shell("echo hello from the guest | sudo tee /dev/console");
    const found = await waitUntil("the line is there", async () => {
      const { logs } = await get(daemon, `${path}/logs`);
      return (logs as { line: string }[]).find(({ line }) => line.includes("hello from the guest"));
    });
    const { logger, level } = JSON.parse(found.line) as Said;
    assert.deepEqual([logger, level], ["console", "info"]);
    const { logs } = await get(daemon, `/v2${path}/logs?search=hello&limit=1`);
    assert.equal((logs as Said[]).length, 1);
  });

  await t.test("it sleeps and wakes with its deadline set anew, by either generation", async () => {
    await sandbox.shell("echo kept >note");
    assert.equal((await api.exchange("POST", `${path}/pause`, {})).status, 204);
    assert.equal((await api.exchange("POST", `${path}/pause`, {})).status, 409);
    assert.equal((await api.exchange("POST", `${path}/timeout`, { timeout: 5 })).status, 404);
    const asleep = await get(daemon, path);
    assert.equal(asleep["state"], "paused");
    assert.ok(isAbout(asleep["endAt"], 0));
    const logs = (await get(daemon, `${path}/logs`))["logs"] as unknown[];
    assert.ok(logs.length > 0, "what it said before outlives the sleep");
    const connects = await Promise.all(
      ["/v2", "/v2", ""].map((v) => api.exchange("POST", `${v}${path}/connect`, { timeout: 900 })),
    );
    const statuses = connects.map(({ status }) => status).toSorted((a, b) => a - b);
    assert.deepEqual(statuses, [200, 200, 201], "all of them join one start");
    const awake = await get(daemon, path);
    assert.ok(isAbout(awake["endAt"], 900));
    assert.equal(await sandbox.shell("cat note"), "kept");
    assert.equal((await api.exchange("POST", `${path}/resume`, {})).status, 409);
  });

  await t.test("connect waits for a pause that is under way", async () => {
    const pausing = api.exchange("POST", `${path}/pause`, {});
    await waitUntil("the pause has begun", async () => {
      return (await sandbox.info()).state === "pausing" || undefined;
    });
    assert.equal((await api.exchange("POST", `${path}/timeout`, { timeout: 5 })).status, 409);
    const connected = await api.exchange("POST", `/v2${path}/connect`, {});
    assert.equal((await pausing).status, 204);
    assert.equal(connected.status, 201);
  });

  await t.test(
    "a sandbox that is not secured answers without a token, also a fork of it",
    async () => {
      const { text } = await api.call("POST", "/sandboxes", { templateID: "base", timeout: 600 });
      const open = JSON.parse(text) as { sandboxID: string; envdAccessToken: null };
      assert.equal(open.envdAccessToken, null);
      const forked = await api.call("POST", `/sandboxes/${open.sandboxID}/fork`, { timeout: 600 });
      const [child] = JSON.parse(forked.text) as { sandbox: { sandboxID: string } }[];
      for (const [sandboxId, status] of [
        [open.sandboxID, 200],
        [child?.sandbox.sandboxID ?? "", 200],
        [id, 401],
      ] as const) {
        const headers = { "e2b-sandbox-id": sandboxId, "e2b-sandbox-port": "49983" };
        assert.equal((await api.exchange("GET", "/metrics", undefined, headers)).status, status);
      }
      for (const one of [open.sandboxID, child?.sandbox.sandboxID]) {
        assert.equal((await api.exchange("DELETE", `/sandboxes/${one}`)).status, 204);
      }
    },
  );

  await t.test("a snapshot with a tag is a template until it is deleted", async () => {
    const taken = await api.call("POST", `${path}/snapshots`, { name: "ready:v1" });
    assert.deepEqual(said(taken)["names"], ["ready:v1"]);
    const made = await daemon.create("ready:v1");
    assert.equal(await made.shell("cat note"), "kept");
    await made.remove();
    const snapshotId = String(said(taken)["snapshotID"]);
    assert.equal((await api.exchange("DELETE", `/templates/${snapshotId}`)).status, 204);
    assert.equal((await api.exchange("DELETE", `/templates/${snapshotId}`)).status, 404);
    const gone = await api.exchange("POST", "/v2/sandboxes", { templateID: "ready:v1" });
    assert.equal(gone.status, 404);
  });

  await t.test("what was asked for outlives the daemon", async () => {
    const network = { denyOut: ["0.0.0.0/0"], allowOut: ["example.com"] };
    assert.equal((await api.exchange("PUT", `${path}/network`, network)).status, 204);
    await daemon.stop();
    await daemon.start();
    const detail = await get(daemon, path);
    assert.deepEqual(detail["network"], { ...network, allowPublicTraffic: true });
    assert.deepEqual(detail["metadata"], { story: "one" });
  });

  await t.test(
    "two kills at once are both told that it is gone, and a third that it is not there",
    async () => {
      const kills = await Promise.all([1, 2].map(() => api.exchange("DELETE", path)));
      assert.deepEqual(
        kills.map(({ status }) => status),
        [204, 204],
      );
      assert.equal((await api.exchange("DELETE", path)).status, 404);
      assert.equal((await api.exchange("GET", path)).status, 404);
    },
  );
});
