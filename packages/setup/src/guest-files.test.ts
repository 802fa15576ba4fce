import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  mkdir,
  mkdtempDisposable,
  readFile,
  readdir,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { addGuestFiles, defaultNodeModulesDir, runAgent, torporInit } from "./guest-files.ts";
import { customizeScript, mmdebstrapProgress } from "./rootfs.ts";

test("the scripts of the guest can be read by the shell", () => {
  for (const script of [torporInit(), runAgent(), customizeScript]) {
    assert.ok(script.startsWith("#!/"));
    execFileSync("sh", ["-n"], { input: script });
  }
});

test("customizeScript leaves the tree's /tmp to mmdebstrap", () => {
  assert.doesNotMatch(customizeScript, /\$root"?\/tmp/);
});

test("addGuestFiles() lays out the agent so that koffi is found, and can be repeated", async (t) => {
  if (process.getuid?.() !== 0) return t.skip("needs root to give files to root");
  await using dir = await mkdtempDisposable(join(tmpdir(), "torpor-guest-files-"));
  const root = join(dir.path, "root");
  await mkdir(join(root, "usr/bin"), { recursive: true });
  await mkdir(join(root, "usr/local/bin"), { recursive: true });
  await mkdir(join(root, "etc"));
  await writeFile(join(root, "usr/bin/busybox"), "busybox");
  const outside = join(dir.path, "outside");
  await writeFile(outside, "untouched");
  await symlink(outside, join(root, "etc/resolv.conf"));
  const agentBundle = join(dir.path, "agent.mjs");
  await writeFile(
    agentBundle,
    'import koffi from "koffi"; process.stdout.write(typeof koffi.load);',
  );
  const nodePath = join(dir.path, "node");
  await writeFile(nodePath, "node");
  const npmDir = join(dir.path, "npm");
  await mkdir(join(npmDir, "bin"), { recursive: true });
  await writeFile(join(npmDir, "bin/npm-cli.js"), "npm", { mode: 0o700 });
  await writeFile(join(npmDir, "package.json"), "{}", { mode: 0o600 });
  const sources = { nodePath, npmDir, agentBundle, nodeModulesDir: defaultNodeModulesDir() };
  await addGuestFiles(root, sources);
  await addGuestFiles(root, sources);
  const agent = join(root, "usr/lib/torpor/agent.mjs");
  assert.equal(execFileSync(process.execPath, [agent]).toString(), "function");
  const local = join(root, "usr/local");
  const agentNode = await stat(join(root, "usr/lib/torpor/node"));
  assert.equal((await stat(join(local, "bin/node"))).ino, agentNode.ino);
  assert.equal(await readFile(join(local, "bin/npm"), "utf8"), "npm");
  assert.equal((await stat(join(local, "bin/npm"))).mode & 0o777, 0o755);
  const npm = join(local, "lib/node_modules/npm");
  assert.equal((await stat(join(npm, "package.json"))).mode & 0o777, 0o644);
  for (const folder of [local, join(local, "bin"), npm, join(npm, "bin")]) {
    assert.equal((await stat(folder)).mode & 0o777, 0o777, folder);
  }
  assert.equal((await stat(join(root, "sbin/torpor-init"))).mode & 0o777, 0o755);
  for (const moment of ["pre-snapshot", "post-restore"]) {
    const folder = join(root, `etc/torpor/hooks/${moment}.d`);
    assert.equal((await stat(folder)).mode & 0o777, 0o755);
    assert.deepEqual(await readdir(folder), []);
  }
  const restoreModule = join(root, "usr/lib/torpor/restore.mjs");
  const script = `import { checkRestored } from "${restoreModule}"; console.log(checkRestored())`;
  const program = ["--input-type=module", "--eval", script];
  assert.equal(execFileSync(process.execPath, program).toString(), "undefined\n");
  assert.ok((await stat(join(root, "usr/lib/python3/dist-packages/torpor_restore.py"))).isFile());
  assert.equal((await stat(outside)).size, "untouched".length);
});

test("mmdebstrapProgress() only moves forward", () => {
  const seen: number[] = [];
  const onLine = mmdebstrapProgress((fraction) => seen.push(fraction));
  for (const line of ["I: running apt-get update...", "I: extracting archives...", "noise"])
    onLine(line);
  for (let index = 0; index < 500; index += 1) onLine(`Setting up package${index} (1.0) ...`);
  onLine("I: creating tarball...");
  assert.ok(seen.every((fraction, index) => fraction >= (seen[index - 1] ?? 0) && fraction <= 1));
  assert.equal(seen.at(-1), 0.97);
});
