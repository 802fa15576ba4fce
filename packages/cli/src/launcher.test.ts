import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdir, mkdtempDisposable, readFile, readlink, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { launcherNote, makeLauncher, removeLauncher } from "./launcher.ts";

interface Place {
  readonly path: string;
  /** A program of another checkout, which is not there yet. */
  readonly other: string;
}

async function place(t: TestContext): Promise<Place> {
  const folder = await mkdtempDisposable(join(tmpdir(), "torpor-launcher-"));
  t.after(() => folder.remove());
  const other = join(folder.path, "checkout/packages/cli/bin/torpor.mjs");
  return { path: join(folder.path, "bin/torpor"), other };
}

async function put(path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, "another's");
}

test("a launcher starts this checkout from anywhere, and is removed again", async (t) => {
  const { path } = await place(t);
  assert.deepEqual(await makeLauncher(path), { kind: "made" });
  assert.deepEqual(await makeLauncher(path), { kind: "there" });
  const manifest = await readFile(new URL("../package.json", import.meta.url), "utf8");
  const version = execFileSync(path, ["--version"], { cwd: "/", encoding: "utf8" }).trim();
  assert.ok(manifest.includes(`"version": "${version}"`));
  assert.equal(await removeLauncher(path), true);
  assert.equal(await removeLauncher(path), false);
});

test("what is not a launcher of ours stays", async (t) => {
  const { path, other } = await place(t);
  await put(path);
  assert.deepEqual(await makeLauncher(path), { kind: "taken" });
  assert.equal(await removeLauncher(path), false);
  assert.equal(await readFile(path, "utf8"), "another's");
  const link = `${path}-2`;
  await symlink("/bin/true", link);
  assert.deepEqual(await makeLauncher(link), { kind: "taken" });
  assert.equal(await readlink(link), "/bin/true");
  const ofOther = `${path}-3`;
  await put(other);
  await symlink(other, ofOther);
  assert.deepEqual(await makeLauncher(ofOther), { kind: "taken" });
  assert.equal(await removeLauncher(ofOther), false);
  assert.equal(await readlink(ofOther), other);
});

test("a launcher of a checkout that is gone is replaced", async (t) => {
  const { path, other } = await place(t);
  await mkdir(dirname(path), { recursive: true });
  await symlink(other, path);
  assert.deepEqual(await makeLauncher(path), { kind: "made" });
  assert.equal(await readlink(path), fileURLToPath(new URL("../bin/torpor.mjs", import.meta.url)));
});

test("a folder that cannot be written is no failure, and is said", async (t) => {
  const { path } = await place(t);
  await put(path);
  const state = await makeLauncher(join(path, "deeper/torpor"));
  assert.equal(state.kind, "impossible");
  assert.match(launcherNote(path, state, {}) ?? "", /could not be put on PATH .*`npx torpor`/);
});

test("a launcher outside of PATH says what to do", () => {
  const made = { kind: "made" } as const;
  assert.match(launcherNote("/a/torpor", made, { PATH: "/b:/a" }) ?? "", /this checkout\.$/);
  assert.match(launcherNote("/a/torpor", made, { PATH: "/b" }) ?? "", /Add \/a to your PATH/);
  assert.equal(launcherNote("/a/torpor", { kind: "there" }, {}), undefined);
});
