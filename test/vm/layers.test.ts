/**
 * What a sandbox stands upon on disk: layers that are folded while nobody waits, an older snapshot for
 * the day the newest is damaged, and nothing that nobody needs.
 */
import assert from "node:assert/strict";
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import { type TestDaemon, Witness, failsWith, startTestDaemon } from "@torpor/testing";

const cycleCount = 10;
/** LIMIT: of a chain, after folds have had their turn. */
const layersMax = 5;

async function flipByte(path: string): Promise<void> {
  await using file = await open(path, "r+");
  const { size } = await file.stat();
  const at = Math.floor(size / 2);
  const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
  await file.write(Buffer.of((buffer[0] ?? 0) ^ 1), 0, 1, at);
}

async function diskPaths({ state }: TestDaemon): Promise<readonly string[]> {
  const folder = join(state.path, "disks");
  return (await readdir(folder)).map((name) => join(folder, name));
}

test("layers", async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();
  const witness = await Witness.start(sandbox);
  const sums: string[] = [];

  await t.test("chains stay short, and everything in them comes back", async () => {
    for (let cycle = 0; cycle < cycleCount; cycle += 1) {
      await sandbox.shell(`head -c 300000 /dev/urandom > file-${cycle} && sync`);
      sums.push(await sandbox.shell(`sha256sum < file-${cycle}`));
      await sandbox.pause();
      await daemon.idle();
      const { snapshot } = await sandbox.info();
      assert.ok(snapshot !== null);
      assert.ok(snapshot.memoryLayers <= layersMax, `${snapshot.memoryLayers} memory layers`);
      assert.ok(snapshot.diskLayers <= layersMax, `${snapshot.diskLayers} disk layers`);
      await sandbox.resume();
      await witness.confirm(sandbox);
    }
    await sandbox.shell("echo 3 | sudo tee /proc/sys/vm/drop_caches");
    for (const [cycle, sum] of sums.entries()) {
      assert.equal(await sandbox.shell(`sha256sum < file-${cycle}`), sum);
    }
  });

  await t.test("what nobody needs is gone", async () => {
    await sandbox.pause();
    await daemon.idle();
    const { snapshot } = await sandbox.info();
    const layers = await daemon.state.layers();
    // Two snapshots that can be resumed, each at most as deep, and their disks.
    assert.ok(layers.length <= 4 * layersMax, layers.join(" "));
    assert.ok(layers.includes(snapshot?.id ?? ""));
  });

  await t.test("damage of any disk layer is found before the guest runs", async () => {
    for (const path of await diskPaths(daemon)) {
      await flipByte(path);
      const resumed = await sandbox.resume().catch((cause: unknown) => cause);
      // A layer of the older snapshot alone harms nobody yet.
      if (TorporError.is(resumed)) {
        assert.ok(failsWith("snapshot.corrupt", "none")(resumed));
        assert.ok(resumed.message.includes(path), resumed.message);
      } else {
        await witness.confirm(sandbox);
        await sandbox.pause();
      }
      await flipByte(path);
    }
    await sandbox.resume();
    await witness.confirm(sandbox);
  });

  await t.test("a damaged newest snapshot can be left for the one before it", async () => {
    await sandbox.shell("echo older > when && sync");
    await sandbox.pause();
    await sandbox.resume();
    await sandbox.shell("echo newer > when && sync");
    await sandbox.pause();
    const { snapshot, hasPrevious } = await sandbox.info();
    assert.ok(snapshot !== null && hasPrevious);
    await flipByte(join(daemon.state.snapshotFolder(snapshot.id), "device.state"));
    await assert.rejects(sandbox.resume(), (cause) => {
      assert.ok(failsWith("snapshot.corrupt", "none")(cause) && TorporError.is(cause));
      assert.match(cause.advice, /resume --previous/);
      return true;
    });
    await sandbox.resumePrevious();
    assert.equal(await sandbox.shell("cat when"), "older");
    await witness.confirm(sandbox);
    await sandbox.pause();
    await sandbox.resume();
    await witness.confirm(sandbox);
  });

  await t.test("there is nothing before the first snapshot", async () => {
    const fresh = await daemon.create();
    await fresh.pause();
    await assert.rejects(fresh.resumePrevious(), failsWith("sandbox.wrongState", "none"));
    assert.equal((await fresh.info()).state, "paused");
  });
});

test("what a running guest stands upon is damaged", async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();
  const witness = await Witness.start(sandbox);

  await t.test("damage below a guest that runs costs it nothing", async () => {
    for (const name of ["memory.pages", "manifest.json"]) {
      await sandbox.pause();
      await daemon.idle();
      const { snapshot } = await sandbox.info();
      assert.ok(snapshot !== null);
      await sandbox.resume();
      await sandbox.shell(`echo ${name} > /tmp/last`);
      await flipByte(join(daemon.state.snapshotFolder(snapshot.id), name));
      await sandbox.pause();
      await daemon.idle();
      const after = (await sandbox.info()).snapshot;
      if (name !== "manifest.json") assert.equal(after?.memoryLayers, 1, "it began anew");
      await sandbox.resume();
      await witness.confirm(sandbox);
      assert.equal(await sandbox.shell("cat /tmp/last"), name);
    }
  });

  await t.test("a fork of a guest stands upon no damaged map", async () => {
    const { snapshot } = await sandbox.info();
    assert.ok(snapshot !== null);
    await flipByte(join(daemon.state.snapshotFolder(snapshot.id), "memory.map"));
    const { children } = await sandbox.fork();
    const [child] = children;
    assert.ok(child !== undefined);
    assert.equal(await child.shell("cat /tmp/last"), "manifest.json");
    await child.remove();
  });
});
