import assert from "node:assert/strict";
import { mkdir, mkdtempDisposable, readdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { runForTest } from "../fixtures.ts";

/** Folders as left by a daemon that ended long ago and never had a sandbox. */
async function leftFolders(t: TestContext): Promise<{ state: string; env: NodeJS.ProcessEnv }> {
  const folder = await mkdtempDisposable(join(tmpdir(), "torpor-uninstall-"));
  t.after(() => folder.remove());
  const state = join(folder.path, "state");
  for (const name of [
    "cache/templates/names",
    "cache/base-0123456789abcdef",
    "sandboxes",
    "working-sets",
  ]) {
    await mkdir(join(state, name), { recursive: true });
  }
  for (const name of ["daemon.lock", "daemon.log", "cache/build.lock"]) {
    await writeFile(join(state, name), "");
  }
  const keyFile = join(folder.path, "keys/sealing.key");
  await mkdir(join(folder.path, "keys"));
  await writeFile(keyFile, "key");
  return { state, env: { TORPOR_KEY_FILE: keyFile } };
}

test("uninstall lists what would go, and removes nothing without being told", async (t) => {
  const { state, env } = await leftFolders(t);
  const { exitCode, stdout, stderr } = await runForTest(["uninstall"], state, { env });
  assert.equal(exitCode, 2);
  for (const path of [state, join(state, "cache"), env["TORPOR_KEY_FILE"] ?? ""]) {
    assert.ok(stdout.includes(`\n  ${path}\n`), stdout);
  }
  assert.match(stderr, /nothing was removed\n {2}next: Say `torpor uninstall --yes`/);
  assert.ok((await readdir(state)).includes("daemon.log"));
});

test("uninstall removes its folders, and leaves what is somebody else's in them", async (t) => {
  const { state, env } = await leftFolders(t);
  await writeFile(join(state, "notes.txt"), "mine");
  await writeFile(join(state, "cache/photo.jpg"), "mine");
  const argv = ["uninstall", "--yes"];
  const { exitCode, stdout, stderr } = await runForTest(argv, state, { env });
  assert.equal(exitCode, 0);
  assert.equal(stdout, `removed ${env["TORPOR_KEY_FILE"]}\n`);
  assert.match(stderr, /state stays: cache, notes\.txt in it is not Torpor's/);
  assert.deepEqual((await readdir(state, { recursive: true })).toSorted(), [
    "cache",
    "cache/photo.jpg",
    "notes.txt",
  ]);
});
