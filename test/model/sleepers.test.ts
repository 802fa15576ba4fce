/** What sandboxes that sleep cost a daemon: nothing at its start but their records, and no removal waits for others. */
import assert from "node:assert/strict";
import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { stateFiles } from "@torpor/storage";
import type { Victims } from "./daemon-life.ts";
import { type World, makeWorld, templateName } from "./world.ts";

const nobody: Victims = { scribble: () => false, killVm: () => false };
const count = 3;

async function putToSleep({ sandboxes }: World): Promise<readonly string[]> {
  const ids: string[] = [];
  while (ids.length < count) {
    const request = { template: templateName, metadata: {}, envVars: {}, lifetime: {} };
    const { sandbox } = await sandboxes.create(request);
    await sandbox.pause();
    ids.push(sandbox.record.id);
  }
  await sandboxes.idle();
  return ids;
}

/** How often the daemon has done this since something was armed. */
function countOf({ life }: World, call: string): number {
  return life.points.filter((point) => point === `after call ${call}`).length;
}

test("a start reads no snapshot of a sandbox that sleeps, and writes nothing of it", async () => {
  await using world = await makeWorld(false);
  await world.start(nobody);
  const ids = await putToSleep(world);
  await world.kill();
  const snapshots = join(world.path, stateFiles.snapshots);
  const disks = join(world.path, stateFiles.disks);
  const before = [await readdir(snapshots), await readdir(disks)];
  // Whoever reads one notices, and then collects nothing.
  for (const id of await readdir(snapshots)) {
    await writeFile(join(snapshots, id, "manifest.json"), "{");
  }
  await writeFile(join(disks, "dstray.qcow2"), "");
  await world.start(nobody);
  await world.sandboxes.idle();
  assert.deepEqual([await readdir(snapshots), await readdir(disks)], before);
  assert.deepEqual(
    world.sandboxes
      .all()
      .map(({ record }) => record.id)
      .toSorted(),
    ids.toSorted(),
  );
  const calls = ["store.read", "records.save", "snapshot layers.add"];
  assert.deepEqual(
    calls.map((call) => countOf(world, call)),
    calls.map(() => 0),
    world.life.points.join("\n"),
  );
});

test("a removal is answered before anything is collected, and then only what it left is", async () => {
  await using world = await makeWorld(false);
  await world.start(nobody);
  const [id = "", ...others] = await putToSleep(world);
  world.life.arm(undefined);
  await world.sandboxes.remove(id);
  assert.equal(countOf(world, "store.collect"), 0);
  await world.sandboxes.idle();
  assert.equal(countOf(world, "store.collect"), 1);
  assert.equal(countOf(world, "store.read"), 0);
  assert.equal((await readdir(join(world.path, stateFiles.snapshots))).length, others.length);
  assert.equal((await readdir(join(world.path, stateFiles.disks))).length, others.length);
});
