import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdir, mkdtempDisposable, readFile, readdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type ErrorCode, TorporError } from "@torpor/std";
import { SandboxFolder } from "./folders.ts";
import { assertFreeSpace } from "./free-space.ts";
import type { SnapshotManifest } from "./manifest.ts";
import { createOverlay } from "./qcow2-overlay.ts";
import { openSnapshot, removeOtherSnapshots, stageSnapshot } from "./snapshot-store.ts";
import { TemplateStore } from "./template-store.ts";

const hasQemuImg = spawnSync("qemu-img", ["--version"]).status === 0;

function fails(code: ErrorCode): (error: unknown) => boolean {
  return (error) => TorporError.is(error) && error.code === code;
}

function manifestOf(generation: number): SnapshotManifest {
  return {
    format: "torpor-snapshot-1",
    sandboxId: "i1",
    templateId: "t1",
    generation,
    createdAtMs: 1,
    identity: { vmm: "qemu", version: "1", accelerator: "tcg", cpuFingerprint: "f", tscKhz: 1 },
    memory: { dataPages: 0, zeroPages: 0, mapSha256: "", chunkBytes: 1, chunkSha256: [] },
    deviceState: { bytes: 0, sha256: "" },
    diskGenerations: [generation],
  };
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
  await using temporary = await mkdtempDisposable(join(tmpdir(), "torpor-snapshots-"));
  const folder = new SandboxFolder(temporary.path, "i1");
  {
    await using staged = await stageSnapshot(folder, 2);
    await writeFile(join(staged.path, "memory.map"), "x");
    await assert.rejects(openSnapshot(folder, 2));
  }
  assert.deepEqual(await readdir(folder.snapshots), []);
  const staged = await stageSnapshot(folder, 2);
  await staged.publish(manifestOf(2));
  assert.equal((await openSnapshot(folder, 2)).generation, 2);
});

test("removeOtherSnapshots() keeps the one it is told to keep", async () => {
  await using temporary = await mkdtempDisposable(join(tmpdir(), "torpor-snapshots-"));
  const folder = new SandboxFolder(temporary.path, "i1");
  for (const generation of [2, 3]) {
    await (await stageSnapshot(folder, generation)).publish(manifestOf(generation));
  }
  await stageSnapshot(folder, 4);
  await removeOtherSnapshots(folder, 3);
  assert.deepEqual(await readdir(folder.snapshots), ["3"]);
});

test("a changed, truncated or foreign manifest is refused", async () => {
  await using temporary = await mkdtempDisposable(join(tmpdir(), "torpor-manifest-"));
  const folder = new SandboxFolder(temporary.path, "i1");
  await (await stageSnapshot(folder, 2)).publish(manifestOf(2));
  const path = join(folder.snapshot(2), "manifest.json");
  const good = await readFile(path, "utf8");
  await writeFile(path, good.replace('"generation": 2', '"generation": 3'));
  await assert.rejects(openSnapshot(folder, 2), fails("snapshot.corrupt"));
  await writeFile(path, good.slice(0, good.length / 2));
  await assert.rejects(openSnapshot(folder, 2), fails("snapshot.corrupt"));
  await writeFile(path, good.replace("torpor-snapshot-1", "torpor-snapshot-9"));
  await assert.rejects(openSnapshot(folder, 2), fails("snapshot.incompatible"));
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
