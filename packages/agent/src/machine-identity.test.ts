import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtempDisposable, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { withOwnName } from "./machine-identity.ts";

const asRoot = { skip: process.geteuid?.() === 0 ? false : "needs root" };
const first = {
  hostname: "torpor-first",
  machineId: "1".repeat(32),
  bootId: "11111111-1111-1111-1111-111111111111",
};
const second = {
  hostname: "torpor-second",
  machineId: "2".repeat(32),
  bootId: "22222222-2222-2222-2222-222222222222",
};

/** A machine of its own to the program that is run in it: mounts, host name, /etc, /run and /var/lib. */
async function makeMachine(): Promise<AsyncDisposable & { readonly path: string }> {
  const folder = await mkdtempDisposable(join(tmpdir(), "torpor-machine-"));
  for (const name of ["etc/ssh", "run", "lib/systemd"]) {
    await mkdir(join(folder.path, name), { recursive: true });
  }
  await copyFile("/etc/passwd", join(folder.path, "etc/passwd"));
  await writeFile(join(folder.path, "etc/machine-id"), "", { mode: 0o444 });
  await writeFile(join(folder.path, "etc/hosts"), "127.0.0.1 localhost\n127.0.1.1 torpor\n");
  await writeFile(join(folder.path, "lib/systemd/random-seed"), "seed");
  return folder;
}

/** Runs shell lines before the program's; `becomes` calls the real thing, and `print` shows a value. */
function runIn(folder: string, prepare: string, program: string): Record<string, unknown> {
  const source = join(import.meta.dirname, "machine-identity.ts");
  const script = `
    import { readFileSync, writeFileSync } from "node:fs";
    import { becomeMachine, renewSshHostKeys } from ${JSON.stringify(source)};
    import { Deadline } from "@torpor/std";
    const [first, second] = ${JSON.stringify([first, second])};
    const warnings = [];
    const log = { warn: (message) => warnings.push(message) };
    const read = (path) => readFileSync(path, "utf8").trim();
    const bootId = "/proc/sys/kernel/random/boot_id";
    const seen = () => ({
      hostname: read("/proc/sys/kernel/hostname"),
      machineId: read("/etc/machine-id"),
      bootId: read(bootId),
    });
    const mountsOn = (path) => read("/proc/self/mountinfo").split(path).length - 1;
    ${program}
  `;
  const shell = `
    set -e
    mount --bind ${folder}/etc /etc
    mount --bind ${folder}/run /run
    mount --bind ${folder}/lib /var/lib
    ${prepare}
    exec "$0" --input-type=module --eval "$1"
  `;
  const unshare = ["--mount", "--uts", "--propagation", "private", "--", "sh", "-c", shell];
  const output = execFileSync("unshare", [...unshare, process.execPath, script], {
    cwd: import.meta.dirname,
    timeout: 60_000,
  });
  return JSON.parse(output.toString()) as Record<string, unknown>;
}

test("a machine takes one identity after another, all of it", asRoot, async () => {
  await using machine = await makeMachine();
  const result = runIn(
    machine.path,
    "",
    `becomeMachine(first, log);
    const once = seen();
    becomeMachine(second, log);
    becomeMachine(second, log);
    let refusal;
    try { writeFileSync(bootId, "mine"); } catch (error) { refusal = error.code; }
    console.log(JSON.stringify({ once, twice: seen(), mounts: mountsOn(bootId), refusal, warnings }));`,
  );
  assert.deepEqual(result, {
    once: first,
    twice: second,
    mounts: 1,
    refusal: "EROFS",
    warnings: [],
  });
  const etc = join(machine.path, "etc");
  assert.equal(await readFile(join(etc, "machine-id"), "utf8"), `${second.machineId}\n`);
  assert.equal(await readFile(join(etc, "hostname"), "utf8"), "torpor-second\n");
  const hosts = await readFile(join(etc, "hosts"), "utf8");
  assert.equal(hosts, "127.0.0.1 localhost\n127.0.1.1 torpor-second\n");
  assert.equal(existsSync(join(machine.path, "lib/systemd/random-seed")), false);
  assert.equal(existsSync(join(machine.path, "etc/ssh/ssh_host_rsa_key")), false);
});

test(
  "neither a disk that cannot be written nor odd files spoil what is promised",
  asRoot,
  async () => {
    await using machine = await makeMachine();
    const result = runIn(
      machine.path,
      "rm /etc/hosts && mkfifo /etc/hosts /etc/hostname && mount -o remount,bind,ro /etc",
      `becomeMachine(first, log);
    const once = seen();
    becomeMachine(second, log);
    const mounts = mountsOn("/etc/machine-id");
    console.log(JSON.stringify({ once, twice: seen(), mounts, warnings: warnings.length }));`,
    );
    // The machine id, the name and the table of hosts, each time.
    assert.deepEqual(result, { once: first, twice: second, mounts: 1, warnings: 6 });
    assert.equal(await readFile(join(machine.path, "etc/machine-id"), "utf8"), "");
  },
);

test("SSH host keys are made anew where there are any", asRoot, async (t) => {
  if (!existsSync("/usr/bin/ssh-keygen")) {
    t.skip("no ssh-keygen");
    return;
  }
  await using machine = await makeMachine();
  const key = join(machine.path, "etc/ssh/ssh_host_ed25519_key");
  await writeFile(key, "of another");
  await writeFile(`${key}.pub`, "of another");
  const program = `await renewSshHostKeys(Deadline.after(30_000, "keys")); console.log("{}");`;
  runIn(machine.path, "", program);
  assert.match(await readFile(key, "utf8"), /BEGIN OPENSSH PRIVATE KEY/);
  assert.match(await readFile(`${key}.pub`, "utf8"), /^ssh-ed25519 /);
});

test("the own name replaces the one before and leaves everything else", () => {
  assert.equal(withOwnName("", "a"), "127.0.1.1 a\n");
  assert.equal(withOwnName("::1 localhost", "a"), "::1 localhost\n127.0.1.1 a\n");
  assert.equal(withOwnName("127.0.1.1\told alias\n# end", "a"), "127.0.1.1 a\n# end");
  assert.equal(withOwnName("127.0.1.10 other\n", "a"), "127.0.1.10 other\n127.0.1.1 a\n");
});
