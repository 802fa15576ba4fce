/**
 * SIGTERM to the daemon's program, with sandboxes that run and `TORPOR_ON_STOP=pause`: it ends when they
 * sleep, and the next daemon wakes them where they were.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { StateFolder, TestSandbox, Witness, spawnTestDaemon } from "@torpor/testing";

test("TORPOR_ON_STOP=pause puts all sandboxes to sleep before the daemon ends", async () => {
  await using state = await StateFolder.make();
  const ids: string[] = [];
  const witnesses: Witness[] = [];
  {
    await using daemon = await spawnTestDaemon(state, undefined, { TORPOR_ON_STOP: "pause" });
    for (let made = 0; made < 2; made += 1) {
      const sandbox = await TestSandbox.create(daemon.api);
      ids.push(sandbox.id);
      witnesses.push(await Witness.start(sandbox));
    }
    await daemon.stop();
  }
  assert.deepEqual(await state.vms(), [], "no VM runs on");
  await using daemon = await spawnTestDaemon(state);
  for (const [index, id] of ids.entries()) {
    const sandbox = await TestSandbox.find(daemon.api, id);
    assert.equal((await sandbox.info()).state, "paused");
    await sandbox.resume();
    await witnesses[index]?.confirm(sandbox);
    await sandbox.remove();
  }
  await daemon.stop();
});
