import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdir, mkdtempDisposable, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type ErrorCode, TorporError, silentLogger } from "@torpor/std";
import { keyFileName } from "./folders.ts";
import { assertFreeSpace } from "./free-space.ts";
import { KeyFile } from "./key-file.ts";
import type { SnapshotManifest } from "./manifest.ts";
import { createOverlay } from "./qcow2-overlay.ts";
import { Sealer } from "./sealing.ts";
import { SnapshotStore } from "./snapshot-store.ts";
import { TemplateStore } from "./template-store.ts";

const hasQemuImg = spawnSync("qemu-img", ["--version"]).status === 0;

function fails(code: ErrorCode): (error: unknown) => boolean {
  return (error) => TorporError.is(error) && error.code === code;
}

const noDigest = { bytes: 0, chunkBytes: 1, chunkSha256: [] };
const noPages = { dataPages: 0, zeroPages: 0, mapSha256: "", chunkSha256: [] };

/** A snapshot that stands upon the memory layers of `below` and upon `disks`. */
function manifestOf(
  snapshotId: string,
  below: readonly string[] = [],
  disks: readonly string[] = [],
): SnapshotManifest {
  return {
    format: "torpor-snapshot-3",
    snapshotId,
    sandboxId: "i1",
    templateId: "t1",
    generation: 2,
    createdAtMs: 1,
    identity: { vmm: "qemu", version: "1", accelerator: "tcg", cpuFingerprint: "f", tscKhz: 1 },
    commandLine: [],
    hostKey: "k",
    memory: {
      kind: "layers",
      layers: [...below, snapshotId].map((id) => ({ snapshotId: id, digest: noPages })),
    },
    deviceState: noDigest,
    disk: disks.map((layerId) => ({ layerId, digest: noDigest })),
  };
}

async function withStore(
  work: (store: SnapshotStore, path: string) => Promise<void>,
): Promise<void> {
  await using temporary = await mkdtempDisposable(join(tmpdir(), "torpor-snapshots-"));
  const keys = KeyFile.open(join(temporary.path, keyFileName), silentLogger);
  await work(await SnapshotStore.open(temporary.path, new Sealer(keys)), temporary.path);
}

async function publish(store: SnapshotStore, manifest: SnapshotManifest): Promise<void> {
  await (await store.stage(manifest.snapshotId)).publish(manifest);
  for (const { layerId } of manifest.disk) await writeFile(store.diskPath(layerId), "");
}

async function names(path: string): Promise<readonly string[]> {
  const [snapshots, disks] = [
    await readdir(join(path, "snapshots")),
    await readdir(join(path, "disks")),
  ];
  return [...snapshots, ...disks].sort();
}

test(
  "createOverlay() makes what qemu-img calls a sound qcow2 image",
  { skip: hasQemuImg ? false : "qemu-img is not installed" },
  async () => {
    await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-overlay-"));
    for (const virtualBytes of [1 << 20, 4 * 2 ** 30, 4 * 2 ** 30 + 512, 3 * 2 ** 40]) {
      const path = join(folder.path, `${virtualBytes}.qcow2`);
      await createOverlay(path, virtualBytes);
      const check = spawnSync("qemu-img", ["check", "--output=json", path], { encoding: "utf8" });
      assert.equal(check.status, 0, check.stdout + check.stderr);
      const info = spawnSync("qemu-img", ["info", "--output=json", path], { encoding: "utf8" });
      const parsed = JSON.parse(info.stdout) as Record<string, unknown>;
      assert.equal(parsed["virtual-size"], virtualBytes);
      assert.equal(parsed["backing-filename"], undefined);
    }
    await assert.rejects(createOverlay(join(folder.path, `${1 << 20}.qcow2`), 1 << 20), /EEXIST/);
  },
);

test("a staged snapshot is invisible until published and leaves nothing when dropped", async () => {
  await withStore(async (store, path) => {
    {
      await using staged = await store.stage("a");
      await writeFile(join(staged.path, "memory.map"), "x");
      assert.equal(await store.has("a"), false);
      await assert.rejects(store.read("a"), fails("snapshot.corrupt"));
    }
    assert.deepEqual(await names(path), []);
    await publish(store, manifestOf("a"));
    assert.equal((await store.read("a")).generation, 2);
  });
});

test("copy() makes a snapshot of the same instant that outlives the first", async () => {
  await withStore(async (store, path) => {
    await publish(store, manifestOf("a", [], ["d1"]));
    await writeFile(store.deviceStatePath("a"), "devices");
    await store.copy("a", "b");
    const copy = await store.read("b");
    assert.deepEqual(copy, { ...(await store.read("a")), snapshotId: "b" });
    const { disk } = manifestOf("", [], ["d2", "d3"]);
    assert.deepEqual(await store.copy("a", "c", disk), { ...copy, snapshotId: "c", disk });
    assert.deepEqual((await store.read("c")).disk, disk);
    // Its memory is the first one's layer.
    await store.collect(() => ({ snapshots: ["b"], disks: [] }));
    assert.deepEqual(await names(path), ["a", "b", "d1.qcow2"]);
    await rm(store.folder("a"), { recursive: true });
    assert.equal(await readFile(store.deviceStatePath("b"), "utf8"), "devices");
  });
});

test("collect() keeps what is needed, what that stands upon and what is in the making", async () => {
  await withStore(async (store, path) => {
    await publish(store, manifestOf("a", [], ["d1"]));
    await publish(store, manifestOf("b", ["a"], ["d1", "d2"]));
    await publish(store, manifestOf("c", [], ["d3"]));
    await writeFile(store.diskPath("d4"), "");
    await writeFile(store.diskPath("d5"), "");
    await store.stage("half");
    const making = store.keep("making", "d5");
    await store.stage("making");
    const removed = await store.collect(() => ({ snapshots: ["b"], disks: ["d4"] }));
    assert.equal(removed.length, 3);
    const kept = ["a", "b", "making.staged", "d1.qcow2", "d2.qcow2", "d4.qcow2", "d5.qcow2"];
    assert.deepEqual(await names(path), [...kept].sort());
    making[Symbol.dispose]();
    await store.collect(() => ({ snapshots: ["a"], disks: [] }));
    assert.deepEqual(await names(path), ["a", "d1.qcow2"]);
    await store.collect(() => ({ snapshots: [], disks: [] }));
    assert.deepEqual(await names(path), []);
  });
});

test("collect() keeps what its maker lets go of once a record names it", async () => {
  await withStore(async (store, path) => {
    await publish(store, manifestOf("a"));
    const making = store.keep("b", "d1");
    await publish(store, manifestOf("b", [], ["d1"]));
    await store.collect(() => {
      // Asked a moment too early to name it, and by the time it is judged nobody keeps it.
      making[Symbol.dispose]();
      return { snapshots: ["a"], disks: [] };
    });
    assert.deepEqual(await names(path), ["a", "b", "d1.qcow2"]);
  });
});

test("collect() keeps what a snapshot stands upon that somebody keeps", async () => {
  await withStore(async (store, path) => {
    await publish(store, manifestOf("a", [], ["d1"]));
    await publish(store, manifestOf("b", ["a"], ["d1"]));
    using holds = new DisposableStack();
    holds.use(store.keep("b", "given-up"));
    await store.collect(() => ({ snapshots: [], disks: [] }));
    assert.deepEqual(await names(path), ["a", "b", "d1.qcow2"]);
  });
});

test("collect() removes nothing while it cannot tell what is needed", async () => {
  await withStore(async (store, path) => {
    await publish(store, manifestOf("a"));
    await publish(store, manifestOf("b", ["a"]));
    await writeFile(join(store.folder("b"), "manifest.json"), "{");
    await assert.rejects(
      store.collect(() => ({ snapshots: ["b"], disks: [] })),
      fails("snapshot.corrupt"),
    );
    assert.deepEqual(await names(path), ["a", "b"]);
  });
});

test("a changed, truncated or foreign manifest is refused", async () => {
  await withStore(async (store) => {
    await publish(store, manifestOf("a"));
    const path = join(store.folder("a"), "manifest.json");
    const good = await readFile(path, "utf8");
    await writeFile(path, good.replace('"generation": 2', '"generation": 3'));
    await assert.rejects(store.read("a"), fails("snapshot.corrupt"));
    await writeFile(path, good.slice(0, good.length / 2));
    await assert.rejects(store.read("a"), fails("snapshot.corrupt"));
    await writeFile(path, good.replace("torpor-snapshot-3", "torpor-snapshot-9"));
    await assert.rejects(store.read("a"), fails("snapshot.incompatible"));
  });
});

test("open() of a template says what is wrong with its name", async () => {
  await using temporary = await mkdtempDisposable(join(tmpdir(), "torpor-templates-"));
  const store = new TemplateStore(temporary.path);
  await mkdir(temporary.path, { recursive: true });
  await assert.rejects(store.open("base"), fails("template.missing"));
  await assert.rejects(store.open("../base"), fails("argument.invalid"));
  await assert.rejects(store.open("a".repeat(20)), fails("template.missing"));
  assert.deepEqual(await store.names(), []);
});

test("assertFreeSpace() refuses what the disk cannot hold", async () => {
  await assertFreeSpace(tmpdir(), 0);
  await assert.rejects(
    assertFreeSpace(tmpdir(), Number.MAX_SAFE_INTEGER),
    fails("storage.noSpace"),
  );
});
