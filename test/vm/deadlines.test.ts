/**
 * Time that is over: sandboxes are killed or paused when their timeout ends or nobody uses them, never
 * while they sleep, and never the run after the one that was meant.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  Failpoints,
  type TestDaemon,
  type TestSandbox,
  Witness,
  failsWith,
  startTestDaemon,
  waitUntil,
} from "@torpor/testing";

async function whenState(sandbox: TestSandbox, state: string): Promise<void> {
  await waitUntil(`the sandbox is ${state}`, async () => {
    return (await sandbox.info()).state === state || undefined;
  });
}

async function whenGone({ api }: TestDaemon, id: string): Promise<void> {
  await waitUntil("the sandbox is gone", async () => {
    return (await api.list()).every((one) => one.id !== id) || undefined;
  });
}

test("deadlines", async (t) => {
  const failpoints = new Failpoints();
  await using daemon = await startTestDaemon({ failpoint: failpoints.failpoint });

  await t.test("kill at the end of the timeout leaves nothing", async () => {
    const sandbox = await daemon.create("base", { timeout: 1 });
    await whenGone(daemon, sandbox.id);
    assert.deepEqual(await daemon.state.vms(), []);
    // What it stood upon is collected in the background.
    await daemon.idle();
    assert.deepEqual(await daemon.state.layers(), []);
  });

  const sandbox = await daemon.create("base", { timeout: 1, autoPause: true });

  await t.test("pause at the end of the timeout loses nothing, and can be used after", async () => {
    await whenState(sandbox, "paused");
    await sandbox.resume();
    await daemon.api.call("POST", `/sandboxes/${sandbox.id}/timeout`, { timeout: 600 });
    const { endAtMs } = await sandbox.info();
    assert.ok(endAtMs !== null && endAtMs > Date.now() + 500_000);
  });
  const witness = await Witness.start(sandbox);

  await t.test("time on disk does not count", async () => {
    await sandbox.pause();
    const asleep = await sandbox.info();
    assert.equal(asleep.endAtMs, null);
    await sandbox.resume();
    const { endAtMs } = await sandbox.info();
    assert.ok(endAtMs !== null && endAtMs > Date.now() + 400_000);
  });

  await t.test("a pause that fails leaves it running, says so, and is tried again", async () => {
    failpoints.failOnce("before", "save memory");
    await daemon.api.call("POST", `/sandboxes/${sandbox.id}/timeout`, { timeout: 0 });
    const missed = await waitUntil("the failure is told", async () => {
      return (await sandbox.info()).missedDeadline ?? undefined;
    });
    assert.match(missed.message, /failed on purpose/);
    assert.equal((await sandbox.info()).state, "running");
    await witness.confirm(sandbox);
    await daemon.api.call("POST", `/sandboxes/${sandbox.id}/timeout`, { timeout: 0 });
    await whenState(sandbox, "paused");
    await sandbox.resume();
    await witness.confirm(sandbox);
    await sandbox.remove();
  });

  await t.test("one that nobody uses is paused, and one that is used is not", async () => {
    const idle = await daemon.create("base", { idleTimeoutMs: 1_500 });
    using stream = await idle.start(["sh", "-c", "read line; echo got $line"], { stdin: true });
    const usedFrom = Date.now();
    await waitUntil("twice the idle timeout has passed", async () => {
      assert.equal((await idle.info()).state, "running");
      return Date.now() > usedFrom + 3_000 || undefined;
    });
    await stream.write("it\n");
    assert.equal(await stream.readLine(), "got it");
    await stream.finish();
    await whenState(idle, "paused");
    await idle.remove();
  });

  await t.test("a request for a run that is over is refused", async () => {
    const late = await daemon.create();
    const { generation } = await late.info();
    await late.pause();
    await late.resume();
    const asked = daemon.api.exchange(
      "POST",
      `/sandboxes/${late.id}/pause`,
      {},
      {
        "torpor-epoch": String(generation),
      },
    );
    assert.equal((await asked).status, 409);
    assert.match((await asked).text, /sandbox\.stale/);
    assert.equal((await late.info()).state, "running");
  });

  await t.test("one whose time ended while no daemon ran is seen to by the next", async () => {
    const orphan = await daemon.create("base", { timeout: 2, autoPause: true });
    await daemon.stop();
    await daemon.start();
    await whenState(orphan, "paused");
    await assert.rejects(orphan.pause(), failsWith("sandbox.wrongState"));
  });
});
