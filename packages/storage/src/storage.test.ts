import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdir, mkdtempDisposable, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type ErrorCode, TorporError, silentLogger } from "@torpor/std";
import { MemoryLedger } from "./fixtures.ts";
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

/** A snapshot that is built on the memory layers of `below` and on `disks`. */
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
  work: (store: SnapshotStore, path: string, ledger: MemoryLedger, sealer: Sealer) => Promise<void>,
): Promise<void> {
  await using temporary = await mkdtempDisposable(join(tmpdir(), "torpor-snapshots-"));
  const keys = KeyFile.open(join(temporary.path, keyFileName), silentLogger);
  const ledger = new MemoryLedger();
  const sealer = new Sealer(keys);
  const store = await SnapshotStore.open(temporary.path, sealer, ledger);
  await work(store, temporary.path, ledger, sealer);
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
    store.hold(["b"]);
    await store.collect();
    assert.deepEqual(await names(path), ["a", "b", "d1.qcow2"]);
    await rm(store.folder("a"), { recursive: true });
    assert.equal(await readFile(store.deviceStatePath("b"), "utf8"), "devices");
  });
});

test("collect() keeps what is held, what that stands upon and what is in the making", async () => {
  await withStore(async (store, path) => {
    await publish(store, manifestOf("a", [], ["d1"]));
    await publish(store, manifestOf("b", ["a"], ["d1", "d2"]));
    await publish(store, manifestOf("c", [], ["d3"]));
    await writeFile(store.diskPath("d4"), "");
    await writeFile(store.diskPath("d5"), "");
    await store.stage("half");
    const record = store.keep("b", "d4");
    store.hold(["a"]);
    const making = store.keep("making", "d5");
    await store.stage("making");
    await store.collect();
    const kept = ["a", "b", "making.staged", "d1.qcow2", "d2.qcow2", "d4.qcow2", "d5.qcow2"];
    assert.deepEqual(await names(path), [...kept].sort());
    making[Symbol.dispose]();
    record[Symbol.dispose]();
    assert.deepEqual((await store.collect()).toSorted(), ["b", "d4", "d5", "making"]);
    assert.deepEqual(await names(path), ["a", "d1.qcow2"]);
  });
});

test("collect() removes with the last of a family what the first was made with", async () => {
  await withStore(async (store, path, ledger) => {
    await publish(store, manifestOf("a", [], ["d1"]));
    const holds = ["c1", "c2", "c3", "c4", "c5"].map((id) => store.keep(id));
    for (const id of ["c1", "c2", "c3", "c4", "c5"]) {
      await publish(store, manifestOf(id, ["a"], ["d1"]));
    }
    await store.collect();
    const left = ["c1", "c2", "c3", "c4", "c5"];
    for (const hold of holds) {
      assert.deepEqual(await names(path), ["a", ...left, "d1.qcow2"]);
      hold[Symbol.dispose]();
      left.shift();
      await store.collect();
    }
    assert.deepEqual(await names(path), []);
    assert.deepEqual(ledger.uses, []);
  });
});

test("collect() reads a page of a family, however large it is, and nothing of others", async () => {
  await withStore(async (store, _path, ledger) => {
    const others = Array.from({ length: 50 }, (_, index) => `other${index}`);
    using holds = new DisposableStack();
    for (const id of others) {
      await publish(store, manifestOf(id, ["a"], [`d-${id}`]));
      holds.use(store.keep(id));
    }
    const last = store.keep("z");
    await publish(store, manifestOf("z", ["a"], ["dz"]));
    await store.collect();
    ledger.rowsRead = 0;
    last[Symbol.dispose]();
    assert.deepEqual(await store.collect(), ["z"]);
    assert.ok(ledger.rowsRead <= 4, `${ledger.rowsRead} rows`);
    ledger.rowsRead = 0;
    await store.collect();
    assert.equal(ledger.rowsRead, 0);
  });
});

test("collect() keeps what its maker lets go of once a record names it", async () => {
  await withStore(async (store, path, ledger) => {
    await publish(store, manifestOf("a", [], ["d0"]));
    store.hold(["a"]);
    const making = store.keep("b", "d1");
    await publish(store, manifestOf("b", [], ["d1"]));
    using holds = new DisposableStack();
    ledger.meanwhile = async () => {
      holds.use(store.keep("b"));
      making[Symbol.dispose]();
    };
    await store.collect();
    await store.collect();
    assert.deepEqual(await names(path), ["a", "b", "d0.qcow2", "d1.qcow2"]);
  });
});

test("collect() sees a snapshot that is published while it looks for one", async () => {
  await withStore(async (store, path, ledger) => {
    await publish(store, manifestOf("a", [], ["d1"]));
    const first = store.keep("a");
    store.hold(["b"]);
    await store.collect();
    first[Symbol.dispose]();
    // It was built on `a`, which its maker releases as soon as it is published.
    ledger.meanwhile = async () => await publish(store, manifestOf("b", ["a"], ["d1"]));
    await store.collect();
    assert.deepEqual(await names(path), ["a", "b", "d1.qcow2"]);
  });
});

test("collect() finds what an earlier process left, whether it was noted, whole or neither", async () => {
  await withStore(async (store, path, ledger, sealer) => {
    await publish(store, manifestOf("kept", ["below"], ["d1"]));
    await publish(store, manifestOf("below", [], ["d0"]));
    await publish(store, manifestOf("given-up", ["below"], ["d2"]));
    await ledger.add(
      ["below", "d3"].map((layerId) => ({ snapshotId: "never published", layerId })),
    );
    await writeFile(store.diskPath("d4"), "");
    await store.stage("half");
    const next = await SnapshotStore.open(path, sealer, ledger);
    next.hold(["kept"]);
    await next.collect();
    assert.deepEqual(await names(path), ["below", "d1.qcow2", "kept"]);
    assert.deepEqual(await ledger.snapshotIds(), ["kept"]);
  });
});

test("collect() notes what an older version published before it removes anything", async () => {
  await withStore(async (store, path, ledger) => {
    await publish(store, manifestOf("a", [], ["d1"]));
    await publish(store, manifestOf("b", ["a"], ["d1", "d2"]));
    ledger.uses = [];
    store.hold(["b"]);
    await store.collect();
    assert.deepEqual(await names(path), ["a", "b", "d1.qcow2", "d2.qcow2"]);
    assert.deepEqual(await ledger.layersOf(["b"]), ["a", "b", "d1", "d2"]);
  });
});

test("collect() removes nothing while it cannot tell what is needed", async () => {
  await withStore(async (store, path, ledger) => {
    await publish(store, manifestOf("a"));
    await publish(store, manifestOf("b", ["a"]));
    ledger.uses = [];
    const manifest = join(store.folder("b"), "manifest.json");
    const good = await readFile(manifest, "utf8");
    await writeFile(manifest, "{");
    const held = store.keep("b");
    await assert.rejects(store.collect(), fails("snapshot.corrupt"));
    assert.deepEqual(await names(path), ["a", "b"]);
    await writeFile(manifest, good);
    await store.collect();
    assert.deepEqual(await names(path), ["a", "b"]);
    held[Symbol.dispose]();
    await store.collect();
    assert.deepEqual(await names(path), []);
  });
});

test("collect() keeps what a damaged snapshot stands upon once that is noted", async () => {
  await withStore(async (store, path) => {
    await publish(store, manifestOf("a"));
    await publish(store, manifestOf("b", ["a"]));
    await publish(store, manifestOf("c"));
    await writeFile(join(store.folder("b"), "manifest.json"), "{");
    store.hold(["b"]);
    await store.collect();
    assert.deepEqual(await names(path), ["a", "b"]);
  });
});

test("collect() tries again what could not be removed", async () => {
  await withStore(async (store, path, ledger) => {
    await publish(store, manifestOf("a", [], ["d1"]));
    ledger.meanwhile = () => Promise.reject(new Error("broken on purpose"));
    await assert.rejects(store.collect(), /on purpose/);
    await store.collect();
    assert.deepEqual(await names(path), []);
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
