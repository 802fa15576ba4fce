/**
 * Sleep and wake under conditions: a guest whose processor is wanted by four programs at once, a clock
 * that is three days further on at the wake, twenty sleeps with pages that become zero.
 */
import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { Ledger, Witness, startTestDaemon, waitUntil } from "@torpor/testing";

const dayMs = 24 * 60 * 60 * 1000;
const cycleCount = 20;

test("hard times", async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();
  const witness = await Witness.start(sandbox);

  await t.test("a guest with four busy programs sleeps, wakes and has children", async () => {
    await sandbox.shell("for n in 1 2 3 4; do yes >/dev/null 2>&1 & done");
    await sandbox.pause();
    await sandbox.resume();
    await witness.confirm(sandbox);
    const [child] = (await sandbox.fork()).children;
    assert.ok(child !== undefined);
    await witness.confirm(child);
    assert.equal(await child.shell("pgrep -cx yes"), await sandbox.shell("pgrep -cx yes"));
    await child.remove();
    await sandbox.shell("pkill -x yes");
  });

  await t.test("three days later the clock is right and timers have not fired", async () => {
    await sandbox.shell("(sleep 100000; echo fired > fired) >/dev/null 2>&1 &");
    const uptimeBefore = Number(await sandbox.shell("cut -d' ' -f1 /proc/uptime"));
    await sandbox.pause();
    const laterMs = Date.now() + 3 * dayMs;
    mock.timers.enable({ apis: ["Date"], now: laterMs });
    try {
      await sandbox.resume();
    } finally {
      mock.timers.reset();
    }
    const guestMs = Number(await sandbox.shell("date +%s%3N"));
    assert.ok(Math.abs(guestMs - laterMs) < dayMs / 24, `off by ${guestMs - laterMs} ms`);
    const uptime = Number(await sandbox.shell("cut -d' ' -f1 /proc/uptime"));
    assert.ok(uptime - uptimeBefore < dayMs / 1000, "time since boot does not leap");
    assert.equal(await sandbox.shell("cat fired 2>/dev/null || echo not yet"), "not yet");
    await witness.confirm(sandbox);
    await sandbox.pause();
    await sandbox.resume();
    await waitUntil("the clock is back", async () => {
      const nowMs = Number(await sandbox.shell("date +%s%3N"));
      return Math.abs(nowMs - Date.now()) < dayMs / 24 || undefined;
    });
  });

  await t.test(`${cycleCount} sleeps bring back what became zero`, async () => {
    const ledger = await Ledger.start(sandbox, 4);
    for (let cycle = 0; cycle < cycleCount; cycle += 1) {
      await ledger.change(sandbox);
      await sandbox.pause();
      await sandbox.resume();
      await ledger.confirm(sandbox);
    }
    await witness.confirm(sandbox);
  });
});
