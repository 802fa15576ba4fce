/**
 * The fallback: everything of a guest saved by the VMM's own means, in one file. Slower and larger, and
 * as complete: the same sleeps, wakes and forks, also on top of snapshots of the usual kind.
 */
import assert from "node:assert/strict";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { StateFolder, TestSandbox, Witness, failsWith, startTestDaemon } from "@torpor/testing";

test("whole saves", async (t) => {
  await using state = await StateFolder.make();
  let id = "";
  let witness: Witness | undefined;

  await t.test("a sandbox sleeps, wakes and has children", async () => {
    await using daemon = await startTestDaemon({ state, saveWhole: true });
    const sandbox = await daemon.create();
    id = sandbox.id;
    witness = await Witness.start(sandbox);
    for (const cycle of [1, 2]) {
      await sandbox.shell(`echo ${cycle} >> cycles && sync`);
      await sandbox.pause();
      const { snapshot } = await sandbox.info();
      assert.ok(snapshot !== null && snapshot.memoryLayers === 0);
      await sandbox.resume();
      await witness.confirm(sandbox);
    }
    const { children, errors } = await sandbox.fork();
    assert.deepEqual(errors, []);
    for (const child of children) {
      assert.equal(await child.shell("cat cycles"), "1\n2");
      await witness.confirm(child);
      await child.remove();
    }
    await witness.confirm(sandbox);
    await sandbox.pause();
  });

  await t.test("the usual way goes on from there", async () => {
    await using daemon = await startTestDaemon({ state });
    const sandbox = await TestSandbox.find(daemon.api, id);
    for (const layers of [1, 2]) {
      await sandbox.resume();
      await witness?.confirm(sandbox);
      await sandbox.pause();
      assert.equal((await sandbox.info()).snapshot?.memoryLayers, layers);
    }
    await sandbox.resume();
    assert.equal(await sandbox.shell("cat cycles"), "1\n2");
  });

  await t.test("damage is found before the guest runs", async () => {
    await using daemon = await startTestDaemon({ state, saveWhole: true });
    const sandbox = await TestSandbox.find(daemon.api, id);
    await sandbox.pause();
    const { snapshot } = await sandbox.info();
    const path = join(state.snapshotFolder(snapshot?.id ?? ""), "device.state");
    {
      await using file = await open(path, "r+");
      const { buffer } = await file.read(Buffer.alloc(1), 0, 1, 100_000_000);
      await file.write(Buffer.of((buffer[0] ?? 0) ^ 0x01), 0, 1, 100_000_000);
    }
    await assert.rejects(sandbox.resume(), failsWith("snapshot.corrupt", "none"));
    await sandbox.resumePrevious();
    await witness?.confirm(sandbox);
    await sandbox.remove();
    await daemon.idle();
  });
});
