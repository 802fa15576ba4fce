/**
 * Sandboxes as the published SDKs keep them: created, found, put to sleep and woken, copied, measured,
 * ended at their time; and what the SDKs throw about one that is not there.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type IncomingMessage, request } from "node:http";
import { test } from "node:test";
import { waitUntil } from "@torpor/testing";
import { withEachSdk } from "./published-clients.ts";

/** Undefined unless it is answered with 200. Browsers and curl look up names below localhost so, too. */
async function textAt(url: string): Promise<string | undefined> {
  const outgoing = request(url, {
    lookup: (_name, _options, found) => found(null, [{ address: "127.0.0.1", family: 4 }]),
  });
  outgoing.end();
  const [answer] = (await once(outgoing, "response")) as [IncomingMessage];
  let text = "";
  for await (const chunk of answer) text += String(chunk);
  return answer.statusCode === 200 ? text : undefined;
}

test("sandboxes by the published SDKs", async (story) => {
  await withEachSdk(story, async (t, { Sandbox, ...sdk }) => {
    const sandbox = await Sandbox.create("base", {
      metadata: { purpose: "story", owner: "you & me = us" },
      timeoutMs: 600_000,
    });
    const other = await Sandbox.create({ metadata: { purpose: "other" } });

    await t.test(
      "Sandbox.create makes what Sandbox.getInfo and Sandbox.isRunning tell",
      async () => {
        const info = await sandbox.getInfo();
        assert.equal(info.sandboxId, sandbox.sandboxId);
        assert.equal(info.name, "base");
        assert.equal(info.state, "running");
        assert.deepEqual(info.metadata, { purpose: "story", owner: "you & me = us" });
        assert.equal(info.cpuCount, 1);
        assert.equal(info.memoryMB, 512);
        const aheadMs = info.endAt.getTime() - info.startedAt.getTime();
        assert.ok(Math.abs(aheadMs - 600_000) < 60_000, `${aheadMs} ms from start to end`);
        assert.equal(await sandbox.isRunning(), true);
      },
    );

    await t.test("Sandbox.list finds by metadata and state, page by page", async () => {
      const query = { metadata: { owner: "you & me = us" } };
      const found = await Sandbox.list({ query }).nextItems();
      assert.deepEqual(
        found.map(({ sandboxId }) => sandboxId),
        [sandbox.sandboxId],
      );
      assert.deepEqual(
        await Sandbox.list({ query: { metadata: { purpose: "none" } } }).nextItems(),
        [],
      );
      const pages = Sandbox.list({ limit: 1, query: { state: ["running"] } });
      const ids: string[] = [];
      while (pages.hasNext) {
        ids.push(...(await pages.nextItems()).map(({ sandboxId }) => sandboxId));
      }
      assert.deepEqual(ids, [other.sandboxId, sandbox.sandboxId], "the newest first");
      await other.pause();
      const paused = await Sandbox.list({ query: { state: ["paused"] } }).nextItems();
      assert.deepEqual(
        paused.map(({ sandboxId }) => sandboxId),
        [other.sandboxId],
      );
    });

    await t.test("Sandbox.setTimeout ends a sandbox at its time", async () => {
      const brief = await Sandbox.create();
      await brief.setTimeout(1_000);
      await waitUntil("it is gone", async () => {
        const found = await brief.getInfo().catch((error: unknown) => error);
        return found instanceof sdk.SandboxNotFoundError || undefined;
      });
      assert.equal(await brief.isRunning(), false);
    });

    await t.test("a command that runs at Sandbox.kill, or at the end, says so", async () => {
      for (const end of ["kill", "timeout"]) {
        const brief = await Sandbox.create();
        const command = await brief.commands.run("sleep 1000", { background: true, timeoutMs: 0 });
        const told = assert.rejects(
          command.wait(),
          (error) =>
            error instanceof sdk.TimeoutError &&
            /killed or reached its end of life/.test(error.message),
        );
        if (end === "kill") await brief.kill();
        else await brief.setTimeout(1_000);
        await told;
      }
    });

    await t.test("Sandbox.pause and Sandbox.connect keep memory, files and processes", async () => {
      const counter = await sandbox.commands.run(
        "echo kept > kept; n=0; while read line; do n=$((n + 1)); echo $n; done",
        { background: true, stdin: true },
      );
      await counter.sendStdin("\n");
      await waitUntil("it counts", async () => counter.stdout === "1\n" || undefined);
      await counter.disconnect();

      assert.equal(await sandbox.pause(), true);
      assert.equal(await sandbox.pause(), false, "it is paused already");
      assert.equal((await sandbox.getInfo()).state, "paused");
      assert.equal(await sandbox.isRunning(), false);
      await assert.rejects(
        sandbox.commands.run("true"),
        (error) => error instanceof sdk.SandboxNotFoundError,
      );

      const woken = await Sandbox.connect(sandbox.sandboxId);
      assert.equal(await woken.files.read("kept"), "kept\n");
      const again = await woken.commands.connect(counter.pid);
      await again.sendStdin("\n");
      await waitUntil("it counts on", async () => again.stdout === "2\n" || undefined);
      await again.kill();
      assert.equal(await sandbox.isRunning(), true);
    });

    await t.test("a stream that is open when its sandbox is paused ends at once", async () => {
      const handle = await sandbox.commands.run("sleep 1000", { background: true });
      const ended = handle.wait().catch((error: unknown) => error);
      await sandbox.pause();
      assert.ok((await ended) instanceof sdk.TimeoutError);
      await sandbox.connect();
      assert.equal(await sandbox.commands.kill(handle.pid), true, "the command lives on");
    });

    await t.test("Sandbox.betaPause and Sandbox.connect of an instance", async () => {
      assert.equal(await sandbox.betaPause(), true);
      await sandbox.connect();
      assert.equal((await sandbox.commands.run("cat kept")).stdout, "kept\n");
    });

    await t.test("a sandbox with the lifecycle pause is paused at its time", async () => {
      const sleepy = await Sandbox.create({
        timeoutMs: 60_000,
        lifecycle: { onTimeout: "pause" },
      });
      await sleepy.setTimeout(1_000);
      await waitUntil("it sleeps", async () => {
        return (await sleepy.getInfo()).state === "paused" || undefined;
      });
      await sleepy.connect({ timeoutMs: 60_000 });
      assert.equal((await sleepy.commands.run("echo awake")).stdout, "awake\n");
      await sleepy.kill();
    });

    await t.test(
      "Sandbox.create and Sandbox.connect give 5 minutes unless told otherwise",
      async () => {
        const brief = await Sandbox.create();
        const leftMs = async (): Promise<number> =>
          (await brief.getInfo()).endAt.getTime() - Date.now();
        assert.ok((await leftMs()) <= 300_000);
        await brief.setTimeout(60_000);
        await brief.pause();
        await brief.connect();
        assert.ok((await leftMs()) > 240_000);
        await brief.kill();
      },
    );

    await t.test("traffic wakes a sandbox with autoResume", async () => {
      const sleepy = await Sandbox.create({
        lifecycle: { onTimeout: "pause", autoResume: true },
      });
      await sleepy.pause();
      assert.equal((await sleepy.commands.run("echo awake")).stdout, "awake\n");
      await sleepy.kill();
    });

    await t.test(
      "Sandbox.createSnapshot, Sandbox.listSnapshots and Sandbox.deleteSnapshot",
      async () => {
        await sandbox.files.write("instant", "then");
        const { snapshotId } = await sandbox.createSnapshot();
        await sandbox.files.write("instant", "now");
        const copy = await Sandbox.create(snapshotId);
        assert.equal(await copy.files.read("instant"), "then");
        const listed = await sandbox.listSnapshots().nextItems();
        assert.deepEqual(
          listed.map((one) => one.snapshotId),
          [snapshotId],
        );
        await copy.kill();
        assert.equal(await Sandbox.deleteSnapshot(snapshotId), true);
        assert.equal(await Sandbox.deleteSnapshot(snapshotId), false);
      },
    );

    await t.test("Sandbox.fork gives sandboxes that go on from here", async () => {
      await sandbox.files.write("origin", "shared");
      const [first, second] = await sandbox.fork({ count: 2 });
      assert.ok(first instanceof Sandbox && second instanceof Sandbox);
      assert.notEqual(first.sandboxId, second.sandboxId);
      await first.files.write("origin", "changed");
      assert.equal(await second.files.read("origin"), "shared");
      assert.equal(await sandbox.files.read("origin"), "shared");
      await first.kill();
      await second.kill();
    });

    await t.test("Sandbox.getMetrics tells what is in use", async () => {
      const metrics = await waitUntil("a measurement is there", async () => {
        const found = await sandbox.getMetrics();
        return found.length > 0 ? found : undefined;
      });
      const last = metrics.at(-1);
      assert.equal(last?.cpuCount, 1);
      assert.ok((last?.memTotal ?? 0) > 400 << 20);
      assert.ok((last?.memUsed ?? 0) > 0);
      assert.ok((last?.diskTotal ?? 0) > 1 << 30);
    });

    await t.test("Sandbox.updateNetwork changes what a sandbox may reach", async () => {
      await sandbox.updateNetwork({ denyOut: ["0.0.0.0/0"] });
      assert.deepEqual((await sandbox.getInfo()).network?.denyOut, ["0.0.0.0/0"]);
    });

    await t.test("Sandbox.getHost names an address at which a server answers", async () => {
      await sandbox.files.write("/tmp/site/index.html", "hello");
      await sandbox.commands.run("python3 -m http.server 3000 --directory /tmp/site", {
        background: true,
      });
      const host = sandbox.getHost(3000);
      assert.match(host, new RegExp(`^3000-${sandbox.sandboxId}\\.localhost:\\d+$`));
      const found = await Sandbox.connect(sandbox.sandboxId);
      assert.equal(found.getHost(3000), host);
      const text = await waitUntil(
        "the server answers",
        async () => await textAt(`http://${host}/`),
      );
      assert.equal(text, "hello");
    });

    await t.test("git.init and git.status run in a sandbox", async (inner) => {
      const has = await sandbox.commands.run("command -v git || true");
      if (has.stdout === "") return inner.skip("the template has no git");
      await sandbox.git.init("repository");
      const { currentBranch } = await sandbox.git.status("repository");
      assert.notEqual(currentBranch, undefined);
    });

    await t.test("Sandbox.kill says whether there was a sandbox", async () => {
      assert.equal(await other.kill(), true);
      assert.equal(await other.kill(), false);
      assert.equal(await other.isRunning(), false);
      const isNotFound = (error: unknown): boolean => error instanceof sdk.SandboxNotFoundError;
      await assert.rejects(other.getInfo(), isNotFound);
      await assert.rejects(other.pause(), isNotFound);
      await assert.rejects(Sandbox.connect(other.sandboxId), isNotFound);
      await assert.rejects(other.setTimeout(1_000), isNotFound);
      await assert.rejects(other.commands.run("true"), isNotFound);
      await assert.rejects(other.files.read("x"), (error) => error instanceof sdk.TimeoutError);
    });

    await t.test("an unknown key is refused with AuthenticationError", async () => {
      await assert.rejects(
        Sandbox.create({ apiKey: `e2b_${"0".repeat(40)}` }),
        (error) => error instanceof sdk.AuthenticationError,
      );
    });

    assert.equal(await sandbox.kill(), true);
  });
});
