/**
 * The main story. A program counts in memory and holds things that exist nowhere on disk. Its
 * sandbox goes to sleep: the VM is gone, files are there in its place. It wakes, and the program
 * counts on as if nothing had happened, whether or not the daemon was ended and started in between.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Witness, assertRightClock, startTestDaemon, stillMs, waitUntil } from "@torpor/testing";
import { SandboxFolder } from "@torpor/storage";

/** The process has ended when pause returns; its entry stays until this process has read its exit. */
async function whenGone(pid: number): Promise<void> {
  await waitUntil("the process table has forgotten the VM", async () => {
    return existsSync(`/proc/${pid}`) ? undefined : true;
  });
}

test("a sandbox sleeps on disk and wakes where it was", async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();
  const witness = await Witness.start(sandbox);
  const folder = new SandboxFolder(daemon.state.path, sandbox.id);

  for (const cycle of [1, 2, 3]) {
    await t.test(`cycle ${cycle}: everything is as it was`, async () => {
      await sandbox.shell(`echo written in cycle ${cycle} > cycle-${cycle} && sync`);
      const before = await witness.confirm(sandbox);
      const { pid } = daemon.run(sandbox).vm.handle;
      await sandbox.pause();

      await whenGone(pid);
      assert.deepEqual(await daemon.state.vms(), []);
      const asleep = await sandbox.info();
      assert.equal(asleep.state, "paused");
      assert.ok(asleep.snapshot !== null && asleep.snapshot.memoryBytes > 0);
      const saved = daemon.state.snapshotFolder(asleep.snapshot.id);
      for (const name of ["device.state", "memory.pages", "memory.map", "manifest.json"]) {
        assert.ok(existsSync(join(saved, name)), name);
      }
      assert.ok(!existsSync(folder.runs), "nothing of the run is left");
      await sleep(stillMs);

      const answer = await sandbox.resume();
      assert.equal(answer.status, 201);
      const after = await witness.confirm(sandbox);
      assert.ok(after.ticks >= before.ticks);
      await waitUntil("it counts on", async () => {
        const { ticks } = await Witness.ask(sandbox);
        return ticks > after.ticks || undefined;
      });
      await assertRightClock(sandbox);
      for (let earlier = 1; earlier <= cycle; earlier++) {
        assert.equal(await sandbox.shell(`cat cycle-${earlier}`), `written in cycle ${earlier}`);
      }
    });
  }

  await t.test("a daemon started anew adopts the running VM", async () => {
    const { pid } = daemon.run(sandbox).vm.handle;
    await daemon.stop();
    assert.ok(existsSync(`/proc/${pid}`), "the VM outlives the daemon");
    await daemon.start();
    assert.equal(daemon.run(sandbox).vm.handle.pid, pid);
    await witness.confirm(sandbox);
    await sandbox.pause();
    await whenGone(pid);
  });

  await t.test("a daemon started anew wakes what another put to sleep", async () => {
    await daemon.stop();
    await daemon.start();
    assert.equal((await sandbox.info()).state, "paused");
    await sandbox.resume();
    await witness.confirm(sandbox);
  });

  await t.test("a repeat changes nothing", async () => {
    const { pid } = await sandbox.info();
    assert.equal((await sandbox.resume()).status, 200);
    assert.equal((await sandbox.info()).pid, pid);
  });
});
