/**
 * Spare sandboxes: made before anybody asks. One that is handed out is as new as any other: its own
 * identity, random numbers and clock, and nothing of its warm-up; one that died in waiting costs the
 * user nothing; and none is listed, none outlives the daemon, none is left by a killed one.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Deadline } from "@torpor/std";
import {
  StateFolder,
  TestSandbox,
  Witness,
  assertRightClock,
  startTestDaemon,
  stillMs,
  waitUntil,
} from "@torpor/testing";

const endMs = 10_000;

async function sparesReady(daemon: { api: TestSandbox["api"] }): Promise<number> {
  const { text } = await daemon.api.call("GET", "/torpor/daemon");
  return (JSON.parse(text) as { sparesReady: number }).sparesReady;
}

test("spare sandboxes", async (t) => {
  await using state = await StateFolder.make();
  await using daemon = await startTestDaemon({ state, spareCount: 1 });
  const ready = (): Promise<true> =>
    waitUntil("a spare is ready", async () =>
      (await sparesReady(daemon)) === 1 ? true : undefined,
    );

  await t.test("none is listed", async () => {
    await ready();
    assert.deepEqual(await daemon.api.list(), []);
    assert.equal((await state.vms()).length, 1);
  });

  const sandboxes: TestSandbox[] = [];
  await t.test("a request gets the one that waits, and another is made", async () => {
    const [waiting] = await state.vms();
    const sandbox = await daemon.create();
    sandboxes.push(sandbox);
    assert.equal((await sandbox.info()).pid, waiting?.pid);
    await ready();
    await sleep(stillMs);
    const late = await daemon.create();
    sandboxes.push(late);
    await Witness.start(late);
    await assertRightClock(late);
  });

  await t.test("two of them share no identity and no random numbers", async () => {
    const drawn = await Promise.all(
      sandboxes.map((sandbox) =>
        sandbox.shell("head -c 32 /dev/urandom | base64; echo $E2B_SANDBOX_ID"),
      ),
    );
    const [first = [], second = []] = drawn.map((text) => text.split("\n"));
    assert.notEqual(first[0], second[0]);
    assert.deepEqual([first[1], second[1]], [sandboxes[0]?.id, sandboxes[1]?.id]);
    assert.notEqual(sandboxes[0]?.accessToken, sandboxes[1]?.accessToken);
  });

  await t.test(
    "one of them sleeps and wakes like any other, and belongs to the next daemon",
    async () => {
      const [sandbox] = sandboxes;
      assert.ok(sandbox !== undefined);
      await sandbox.shell("echo kept > note");
      await sandbox.pause();
      await sandbox.resume();
      assert.equal(await sandbox.shell("cat note"), "kept");
      await daemon.stop();
      assert.equal((await state.vms()).length, 2, "spares end with the daemon");
      await daemon.start();
      const again = await TestSandbox.find(daemon.api, sandbox.id);
      assert.equal(await again.shell("cat note"), "kept");
      await again.remove();
    },
  );

  await t.test("one that died in waiting costs the user nothing", async () => {
    await ready();
    const claimed = new Set((await daemon.api.list()).map(({ pid }) => pid));
    const spare = (await state.vms()).find(({ pid }) => !claimed.has(pid));
    assert.ok(spare !== undefined);
    await spare.end(Deadline.after(endMs, "ending the spare"));
    const sandbox = await daemon.create();
    assert.equal(await sandbox.shell("echo works"), "works");
    await sandbox.remove();
  });

  for (const { id } of await daemon.api.list()) await daemon.api.call("DELETE", `/sandboxes/${id}`);
});
