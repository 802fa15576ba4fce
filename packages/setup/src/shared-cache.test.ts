import assert from "node:assert/strict";
import { chmod, mkdir, mkdtempDisposable, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { findClosed, isShared, shareCache } from "./shared-cache.ts";

async function modeOf(path: string): Promise<string> {
  return ((await stat(path)).mode & 0o777).toString(8);
}

test("a shared cache is readable by all, written by its owner, and its programs run", async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), "torpor-share-"));
  const cache = join(dir.path, "cache");
  await mkdir(join(cache, "templates/names"), { recursive: true, mode: 0o700 });
  await writeFile(join(cache, "templates/names/base"), "x", { mode: 0o600 });
  await writeFile(join(cache, "program"), "x", { mode: 0o700 });
  await writeFile(join(dir.path, "elsewhere"), "x", { mode: 0o600 });
  await symlink(join(dir.path, "elsewhere"), join(cache, "link"));
  await chmod(cache, 0o700);
  assert.equal(await isShared(cache), false);
  await shareCache(cache);
  assert.equal(await isShared(cache), true);
  assert.equal(await modeOf(cache), "755");
  assert.equal(await modeOf(join(cache, "templates/names")), "755");
  assert.equal(await modeOf(join(cache, "templates/names/base")), "644");
  assert.equal(await modeOf(join(cache, "program")), "755");
  assert.equal(await modeOf(join(dir.path, "elsewhere")), "600");
});

test("no cache is not a closed one", async () => {
  assert.equal(await findClosed("/nonexistent/cache"), undefined);
});
