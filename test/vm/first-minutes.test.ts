/**
 * What an agent reaches for in the first minutes of a sandbox is there and works as on a developer's
 * own machine: tools, scratch space, packages without a flag. Nothing here needs the internet.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type TestSandbox, startTestDaemon } from "@torpor/testing";

const tools =
  "python python3 pip node npm npx git gcc g++ make jq zip unzip wget curl rsync file patch less ps ss " +
  "ssh scp sqlite3";

/** A package of two lines, whose program says hello, as a wheel in an index. */
const pythonPackage = String.raw`
import zipfile
wheel = "/tmp/index/hello-py/hello_py-1.0-py3-none-any.whl"
info = "hello_py-1.0.dist-info/"
with zipfile.ZipFile(wheel, "w") as archive:
    archive.writestr("hello_py.py", "def main():\n    print('hello from pip')\n")
    archive.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: hello-py\nVersion: 1.0\n")
    archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    archive.writestr(info + "entry_points.txt", "[console_scripts]\nhello-py = hello_py:main\n")
    archive.writestr(info + "RECORD", "")
`;

const nodePackage = {
  ...{ name: "hello-node", version: "1.0.0", main: "index.js" },
  bin: { "hello-node": "index.js" },
};
const nodeProgram = `#!/usr/bin/env node
console.log("hello from npm");
`;

const looksMax = 30;

/** Runs a line of shell for longer than one command of a test may take: npm is slow when emulated. */
async function runSlowly(sandbox: TestSandbox, line: string): Promise<void> {
  await sandbox.shell(
    `rm -f status; ( ${line}; echo $? >status.new; mv status.new status) >log 2>&1 &`,
  );
  const look = "for n in $(seq 10); do [ -e status ] && break; sleep 1; done; cat status log";
  for (let looks = 0; looks < looksMax; looks += 1) {
    const { exitCode, stdout } = await sandbox.run(["sh", "-c", look]);
    if (exitCode !== 0) continue;
    assert.match(stdout, /^0\n/);
    return;
  }
  assert.fail(`${line} does not end`);
}

test("the first minutes", async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();

  await t.test("the tools are there", async () => {
    const missing = `for tool in ${tools}; do command -v $tool >/dev/null || echo $tool; done`;
    assert.equal(await sandbox.shell(missing), "");
    assert.match(await sandbox.shell("python --version"), /^Python 3/);
    const compile = "echo 'int main() { return 42; }' | g++ -x c++ -o answer -";
    assert.equal(await sandbox.shell(`${compile}; ./answer; echo $?`), "42");
    const module = "gcc -x c -fsyntax-only $(python3-config --includes) -";
    await sandbox.shell(`echo '#include <Python.h>' | ${module}`);
  });

  await t.test(
    "/tmp is on the disk, empty and everybody's; /run and /dev/shm are in memory",
    async () => {
      assert.equal(await sandbox.shell("stat -c %a:%U /tmp; ls -A /tmp"), "1777:root");
      const places = "stat -f -c %T /tmp /run /dev/shm /run/torpor";
      assert.equal(await sandbox.shell(places), "ext2/ext3\ntmpfs\ntmpfs\ntmpfs");
      await sandbox.shell("fallocate -l 1G /tmp/large && rm /tmp/large");
    },
  );

  await t.test("pip install works at once, and what it installs is found", async () => {
    await sandbox.shell(`mkdir -p /tmp/index/hello-py; python <<'END'${pythonPackage}END`);
    using server = await sandbox.start(["python", "-m", "http.server", "-d", "/tmp/index", "8001"]);
    await sandbox.shell("until curl -s 127.0.0.1:8001; do sleep 0.2; done");
    await runSlowly(sandbox, "pip install --index-url http://127.0.0.1:8001/ hello-py");
    assert.equal((await sandbox.run(["hello-py"])).stdout, "hello from pip\n");
    const asRoot = await sandbox.run(["sudo", "hello-py"]);
    assert.equal(asRoot.stdout, "hello from pip\n");
    assert.ok(server.pid > 0);
  });

  await t.test(
    "npm install works at once, globally too, and what it installs is found",
    async () => {
      await sandbox.shell(`mkdir /tmp/package project && cd /tmp/package && cat >package.json <<'END'
${JSON.stringify(nodePackage)}
END
cat >index.js <<'END'
${nodeProgram}END
cd .. && tar -czf hello.tgz package`);
      await runSlowly(sandbox, "(cd project && npm install /tmp/hello.tgz)");
      assert.equal(await sandbox.shell("project/node_modules/.bin/hello-node"), "hello from npm");
      await runSlowly(sandbox, "npm install -g /tmp/hello.tgz");
      assert.equal((await sandbox.run(["hello-node"])).stdout, "hello from npm\n");
    },
  );

  await t.test("programs in ~/.local/bin are found, with a login shell and without", async () => {
    await sandbox.shell("mkdir -p .local/bin && cp /bin/echo .local/bin/own-echo");
    assert.equal((await sandbox.run(["own-echo", "hello"])).stdout, "hello\n");
    for (const shell of [
      ["bash", "-lc"],
      ["sudo", "-u", "user", "-i", "sh", "-c"],
    ] as const) {
      const { stdout, stderr } = await sandbox.run([...shell, "own-echo hello"]);
      assert.equal(stdout, "hello\n", stderr);
    }
  });
});
