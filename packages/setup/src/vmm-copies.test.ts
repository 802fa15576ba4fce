import assert from "node:assert/strict";
import { mkdir, mkdtempDisposable, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { vmmCopyFolder } from "@torpor/storage";
import { copyKey, describeFile, writeDescription } from "@torpor/vmm";
import { inspectVmmCopies } from "./vmm-copies.ts";

test("inspectVmmCopies() tells a sound copy from a damaged one, and that nothing needs them", async () => {
  await using cache = await mkdtempDisposable(join(tmpdir(), "torpor-copies-"));
  const source = join(cache.path, "file");
  await writeFile(source, "content");
  const description = { version: "10.0.2", files: [await describeFile("file", source)] };
  const key = copyKey(description);
  const folder = vmmCopyFolder(cache.path, key);
  await mkdir(folder);
  await writeFile(join(folder, "file"), "content");
  await writeDescription(folder, description);
  const expected = { key, version: "10.0.2", isUsed: false };
  assert.deepEqual(await inspectVmmCopies(cache.path), [{ ...expected, problem: undefined }]);

  await rm(join(folder, "file"));
  const [found] = await inspectVmmCopies(cache.path);
  assert.equal(found?.problem?.code, "vmm.damaged");
});

test("inspectVmmCopies() finds nothing in a cache that is not there", async () => {
  assert.deepEqual(await inspectVmmCopies("/nonexistent"), []);
});
