/**
 * What a sandbox stands upon on disk: layers that are folded while nobody waits, an older snapshot for
 * the day the newest is damaged, and nothing that nobody needs.
 */
import assert from "node:assert/strict";
import { open, readFile, readdir, readlink } from "node:fs/promises";
import { basename, join } from "node:path";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import {
  type TestDaemon,
  type TestSandbox,
  Witness,
  failsWith,
  startTestDaemon,
} from "@torpor/testing";

const cycleCount = 10;
/** Of one run, which is put upon what was folded several times meanwhile. */
const snapshotCount = 24;
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

/** The disk layers that the process of a VM has open, by id. */
async function openLayers(pid: number): Promise<readonly string[]> {
  const folder = `/proc/${pid}/fd`;
  const paths = await Promise.all(
    (await readdir(folder)).map((fd) => readlink(join(folder, fd)).catch(() => "")),
  );
  return paths.filter((path) => path.includes(".qcow2")).map((path) => basename(path, ".qcow2"));
}

/** Those that it is shown, by id: what was removed on the host takes room as long as it is among them. */
async function shownLayers(pid: number, runFolder: string): Promise<readonly string[]> {
  const mounts = (await readFile(`/proc/${pid}/mountinfo`, "utf8")).split("\n");
  const mounted = mounts.map((line) => line.split(" ")[4] ?? "");
  const paths = [...mounted, ...(await readdir(runFolder))];
  return paths.filter((path) => path.includes(".qcow2")).map((path) => basename(path, ".qcow2"));
}

/** Fails unless those layers are open for the VM that its record names, and no others; returns how many. */
async function countOpenLayers(daemon: TestDaemon, sandbox: TestSandbox): Promise<number> {
  const { state, diskLayers } = daemon.live(sandbox).record;
  assert.equal(state.kind, "running");
  assert.deepEqual(state.kind === "running" && state.openDisks, diskLayers);
  const { pid, runFolder, userId, firecracker } = daemon.run(sandbox).vm.handle;
  const opened = await openLayers(firecracker?.disk.pid ?? pid);
  assert.deepEqual(opened.toSorted(), diskLayers.toSorted());
  // Firecracker itself is shown none, and without root nothing is hidden.
  if (userId !== undefined && firecracker === undefined) {
    const shown = await shownLayers(pid, runFolder);
    assert.deepEqual(shown.toSorted(), diskLayers.toSorted());
  }
  return diskLayers.length;
}

test("a VM that runs on", async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();
  const witness = await Witness.start(sandbox);
  const sums: string[] = [];
  const snapshots: string[] = [];

  const write = async (): Promise<void> => {
    const name = `file-${sums.length}`;
    await sandbox.shell(`head -c 300000 /dev/urandom > ${name} && sync`);
    sums.push(await sandbox.shell(`sha256sum < ${name}`));
  };
  const confirm = async (one: TestSandbox): Promise<void> => {
    await one.shell("echo 3 | sudo tee /proc/sys/vm/drop_caches");
    const files = sums.map((_, index) => `sha256sum < file-${index}`).join("; ");
    assert.deepEqual((await one.shell(files)).split("\n"), sums);
    await witness.confirm(one);
  };

  await t.test("stands upon few layers however often it is saved", async () => {
    // Layers that it is started with are shown to it in another way than those that come later.
    for (let cycle = 0; cycle < 2; cycle += 1) {
      await write();
      await sandbox.pause();
      await sandbox.resume();
    }
    const { pid } = await sandbox.info();
    let replacedCount = 0;
    let countBefore = await countOpenLayers(daemon, sandbox);
    for (let count = 0; count < snapshotCount; count += 1) {
      await write();
      snapshots.push(await sandbox.snapshot());
      await daemon.idle();
      const openCount = await countOpenLayers(daemon, sandbox);
      assert.ok(openCount <= layersMax + 1, `${openCount} disk layers are open`);
      if (openCount <= countBefore) replacedCount += 1;
      countBefore = openCount;
      if (count === snapshotCount / 2) {
        await daemon.stop();
        await daemon.start();
      }
    }
    assert.ok(replacedCount >= 3, `it was put upon what was folded ${replacedCount} times`);
    assert.equal((await sandbox.info()).pid, pid, "it is the same run");
    await confirm(sandbox);
  });

  await t.test("keeps no layer on disk that nobody needs", async () => {
    for (const id of snapshots.slice(0, -1)) await daemon.sandboxes.removeSnapshot(id);
    await daemon.idle();
    // Those of the snapshot it would go back to are others, if that was not folded.
    const paths = await diskPaths(daemon);
    assert.ok(paths.length <= 4 * layersMax, paths.join(" "));
    await confirm(sandbox);
  });

  await t.test("shares what was folded with children and sandboxes made from it", async () => {
    const [id = ""] = snapshots.slice(-1);
    const { children, errors } = await sandbox.fork();
    assert.deepEqual(errors, []);
    const made = await daemon.create(id);
    for (const one of [...children, made]) {
      await confirm(one);
      await one.shell("echo own > file-0 && sync");
    }
    await confirm(sandbox);
    for (const one of [...children, made]) await one.remove();
  });

  await t.test("sleeps and wakes with everything", async () => {
    await write();
    await sandbox.pause();
    await sandbox.resume();
    await confirm(sandbox);
  });
});

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
    for (const name of ["memory.map", "manifest.json"]) {
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
