import assert from "node:assert/strict";
import { mkdirSync, mkdtempDisposableSync, symlinkSync, unlinkSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { mapFilePrivately, writeMemory } from "@torpor/native";
import type { VmHandle } from "../driver.ts";
import { FirecrackerMemory } from "./memory.ts";
import { runPaths } from "./run-files.ts";

const page = 4096;
const gib = 2 ** 30;

interface Setting extends Disposable {
  readonly handle: VmHandle;
  readonly write: (path: string, at: number, content: Buffer | string) => Promise<void>;
}

/** Makes a run's folder with an image of this size, empty but for its first page. */
async function makeSetting(sizeBytes: number): Promise<Setting> {
  const folder = mkdtempDisposableSync(join(tmpdir(), "torpor-memory-"));
  const handle: VmHandle = {
    pid: process.pid,
    startTicks: 0,
    bootId: "",
    runFolder: folder.path,
    memoryPath: join(folder.path, "image"),
    memoryMiB: sizeBytes / 2 ** 20,
  };
  mkdirSync(runPaths(folder.path).vm);
  const write = async (path: string, at: number, content: Buffer | string): Promise<void> => {
    await using file = await open(path, "a").then(async (made) => {
      await made.close();
      return await open(path, "r+");
    });
    await file.truncate(sizeBytes);
    const bytes = typeof content === "string" ? Buffer.alloc(page, content) : content;
    await file.write(bytes, 0, bytes.length, at);
  };
  await write(handle.memoryPath, 0, "image");
  return { handle, write, [Symbol.dispose]: () => folder.remove() };
}

function read(memory: FirecrackerMemory, at: number, length = page): string {
  const into = Buffer.alloc(length, "?");
  memory.read(at, into);
  return into.toString("latin1");
}

test("what changed lies above what was loaded, above the image, beyond 3 GiB too", async () => {
  using setting = await makeSetting(5 * gib);
  const { handle, write } = setting;
  const { memory: file, changedMemory } = runPaths(handle.runFolder);
  await write(file, 0, "");
  using memory = new FirecrackerMemory(handle);
  const loaded = [
    { startBytes: 2 * page, endBytes: 3 * page },
    { startBytes: 4 * gib, endBytes: 4 * gib + page },
  ];
  await memory.writeFile({
    ranges: () => loaded,
    applyTo: async (to) => {
      const bytes = Buffer.alloc(page, "layer");
      await to.write(loaded.map(({ startBytes }) => ({ offsetBytes: startBytes, bytes })));
    },
  });
  assert.equal(memory.basePath, file);
  await write(changedMemory, 3 * gib - page, Buffer.alloc(2 * page, "across "));
  // A page of zeros that was written is a page, and hides what is below.
  await write(changedMemory, 4 * gib, Buffer.alloc(page));
  memory.refresh(false);
  const expected = [
    { startBytes: 2 * page, endBytes: 3 * page },
    { startBytes: 3 * gib - page, endBytes: 3 * gib + page },
    { startBytes: 4 * gib, endBytes: 4 * gib + page },
  ];
  assert.deepEqual(memory.ownRanges(), expected);
  for (const one of [memory, FirecrackerMemory.reach(handle)]) {
    if (one !== memory) one.refresh(false);
    assert.match(read(one, 0), /^image/);
    assert.match(read(one, 2 * page), /^layer/);
    assert.match(read(one, 3 * gib), /^cross across/);
    assert.equal(read(one, 4 * gib), "\0".repeat(page));
    const mixed = Buffer.alloc(3 * page, "?");
    one.read(page, mixed);
    assert.equal(mixed.toString("latin1", 0, page), "\0".repeat(page));
    assert.equal(mixed.toString("latin1", page, page + 5), "layer");
    assert.deepEqual(one.ownRanges(), expected);
  }
});

test("what the jailed process leaves in the place of its memory is not followed", async () => {
  using setting = await makeSetting(page * 256);
  const { handle, write } = setting;
  const { changedMemory } = runPaths(handle.runFolder);
  using memory = new FirecrackerMemory(handle);
  symlinkSync(handle.memoryPath, changedMemory);
  assert.throws(() => memory.refresh(false), { code: "ELOOP" });
  unlinkSync(changedMemory);
  await write(changedMemory, 0, "short");
  await using file = await open(changedMemory, "r+");
  await file.truncate(page);
  assert.throws(() => memory.refresh(false), { code: "vmm.failed" });
});

test("what a VM has used of the image is told, and of any other file nothing", async () => {
  const sizeBytes = 2 ** 20;
  using setting = await makeSetting(sizeBytes);
  const { handle } = setting;
  using memory = new FirecrackerMemory(handle);
  assert.equal(memory.usedRanges(), undefined, "it is not mapped");
  await using image = await open(handle.memoryPath, "r+");
  using mapping = mapFilePrivately(image.fd, sizeBytes);
  writeMemory(mapping.address + 8 * page, Buffer.alloc(2 * page, "used"));
  assert.deepEqual(memory.usedRanges(), [{ startBytes: 8 * page, endBytes: 10 * page }]);
  memory.useWhole(`${handle.memoryPath}.other`);
  assert.equal(memory.usedRanges(), undefined);
});
