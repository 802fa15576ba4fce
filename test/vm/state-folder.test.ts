/** What another user of the machine, or a finder of the disk, gets from a state folder in use. */
import assert from "node:assert/strict";
import { chmod, lstat, readFile, readdir, stat } from "node:fs/promises";
import { join, relative } from "node:path";
import { test } from "node:test";
import { SandboxFolder } from "@torpor/storage";
import { StateFolder, TestSandbox, spawnTestDaemon } from "@torpor/testing";

const secretText = "planted-secret-of-a-variable";
/** A guest's memory and disk hold what the guest holds. */
const ofTheGuest = /^(?:memory\.pages|device\.state|.*\.qcow2)$/;
/** A VM's own user reads its sealed layers, and passes the folder that its view is built in. */
const forTheVmm =
  /^disks\/[^/]*\.qcow2$|^snapshots\/[^/]*\/device\.state$|\/run\/\d+\/root(?:\/|$)/;

async function pathsBelow(folder: string): Promise<readonly string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries.map((entry) => join(entry.parentPath, entry.name));
}

test("what a daemon makes in its state folder is its owner's alone, whatever the umask", async () => {
  await using state = await StateFolder.make();
  await chmod(state.path, 0o755);
  const umask = process.umask(0);
  const starting = spawnTestDaemon(state, undefined, { TORPOR_SPARES: "1" });
  process.umask(umask);
  await using daemon = await starting;
  const sandbox = await TestSandbox.create(daemon.api);
  const other = await TestSandbox.create(daemon.api);
  await sandbox.pause();
  assert.equal((await stat(state.path)).mode & 0o777, 0o700);
  const open: string[] = [];
  for (const path of await pathsBelow(state.path)) {
    const { mode } = await lstat(path);
    const name = relative(state.path, path);
    if ((mode & 0o077) !== 0 && !forTheVmm.test(name)) open.push(`${name} ${mode.toString(8)}`);
  }
  assert.deepEqual(open, []);
  const ofVms = await pathsBelow(new SandboxFolder(state.path, other.id).runs);
  assert.ok(
    ofVms.some((path) => path.endsWith("console.log")),
    "a VM ran",
  );
  await sandbox.remove();
  await other.remove();
  await daemon.stop();
});

test("the state folder of a daemon that runs shows no token, host key or variable", async () => {
  await using state = await StateFolder.make();
  await using daemon = await spawnTestDaemon(state);
  const running = await TestSandbox.create(daemon.api, "base", {
    envVars: { PLANTED: secretText },
  });
  const paused = await TestSandbox.create(daemon.api, "base", { envVars: { PLANTED: secretText } });
  await paused.pause();
  const secrets = [secretText, running.accessToken, paused.accessToken];
  for (const path of await pathsBelow(state.path)) {
    if (ofTheGuest.test(path.slice(path.lastIndexOf("/") + 1)) || !(await stat(path)).isFile())
      continue;
    const bytes = await readFile(path);
    for (const secret of secrets) {
      assert.ok(!bytes.includes(secret), `${relative(state.path, path)} holds ${secret}`);
    }
  }
  await daemon.kill();
  // Sealed once, opened by the next daemon.
  await using next = await spawnTestDaemon(state);
  const found = await TestSandbox.find(next.api, running.id);
  assert.equal(found.accessToken, running.accessToken);
  await paused.resume();
  assert.match((await paused.run(["printenv", "PLANTED"])).stdout, new RegExp(secretText));
  await paused.remove();
  await running.remove();
  await next.stop();
});
