/**
 * Who may do what inside a sandbox, and what the process of its VM may do on the host. Commands run as an
 * ordinary user in a cgroup of their own; the agent stands apart and survives a program that takes all
 * memory; the routes of the host are closed to clients and to programs inside; and no two sandboxes, nor
 * two runs of one snapshot, share random numbers or tokens.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFile, readdir, stat, truncate } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { cutLongConsoles } from "@torpor/host";
import { agentPort, guestAddress, privateRoutes } from "@torpor/protocol";
import { silentLogger } from "@torpor/std";
import { type TestDaemon, type TestSandbox, startTestDaemon, waitUntil } from "@torpor/testing";
import { inspectCgroups, runFiles } from "@torpor/vmm";
import { underQemu } from "./qemu-only.ts";

const agentPids = "cat /sys/fs/cgroup/agent/cgroup.procs";

/** Random values from everywhere a program in the guest would ask. */
async function draw(sandbox: TestSandbox): Promise<readonly string[]> {
  const line = [
    "head -c 32 /dev/urandom | base64",
    "cat /proc/sys/kernel/random/uuid",
    `python3 -c 'import os, random; print(os.urandom(16).hex()); print(random.random())'`,
    `node -p 'crypto.randomUUID()'`,
  ].join(" && ");
  const values = (await sandbox.shell(line)).split("\n");
  assert.equal(values.length, 5);
  return values;
}

test("a sandbox is its user's, and its agent is the host's", async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();

  await t.test("commands run as the user, who may become root", async () => {
    assert.equal(await sandbox.shell("id -u; id -un; pwd"), "1000\nuser\n/home/user");
    assert.equal(await sandbox.shell("sudo -n id -u"), "0");
    assert.equal(await sandbox.shell("id -u", { user: "root" }), "0");
  });

  await t.test("commands live in one cgroup and the agent in another", async () => {
    const cgroups = [
      await sandbox.shell("cat /proc/self/cgroup"),
      await sandbox.shell("cat /proc/self/cgroup", { user: "root" }),
      await sandbox.shell("sudo cat /proc/self/cgroup"),
    ];
    for (const cgroup of cgroups) assert.match(cgroup, /^0::\/user\/[^/]+$/);
    assert.equal(new Set(cgroups).size, cgroups.length, "each command has one of its own");
    const [agentPid = ""] = (await sandbox.shell(agentPids)).split("\n");
    assert.match(
      await sandbox.shell(`tr '\\0' ' ' < /proc/${agentPid}/cmdline`, { user: "root" }),
      /agent\.mjs/,
    );
    assert.equal(await sandbox.shell(`cat /proc/${agentPid}/cgroup`), "0::/agent");
    assert.equal(await sandbox.shell(`cat /proc/${agentPid}/oom_score_adj`), "-1000");
    const own = Number(await sandbox.shell("cat /proc/self/oom_score_adj"));
    assert.ok(own >= 0, "a command is a better victim than the agent");
  });

  await t.test("a console that grows too long begins anew and goes on", async () => {
    const path = join(daemon.run(sandbox).vm.handle.runFolder, runFiles.console);
    await truncate(path, 5 * 1024 * 1024);
    await cutLongConsoles([daemon.live(sandbox)], silentLogger);
    assert.equal((await stat(path)).size, 0);
    await sandbox.shell("echo still printing > /dev/ttyS0", { user: "root" });
    await waitUntil("the console goes on", async () =>
      (await readFile(path, "utf8")).includes("still printing") ? true : undefined,
    );
  });

  await t.test("the host's routes are closed to clients", async () => {
    for (const path of privateRoutes) {
      for (const variant of [path, `${path}?x=1`]) {
        const answer = await sandbox.request(agentPort, "POST", variant);
        assert.equal(answer.status, 404, variant);
      }
      for (const variant of [`/${path}`, `${path}/`, `/.${path}`, path.replace("i", "%69")]) {
        const answer = await sandbox.request(agentPort, "POST", variant);
        assert.ok(answer.status >= 400, `${variant}: ${answer.status}`);
      }
    }
    assert.equal((await sandbox.info()).state, "running");
    await sandbox.shell("true");
  });

  await t.test("the host's routes are closed to programs inside, root included", async () => {
    const script = `
import http.client, json
for path in ${JSON.stringify(privateRoutes)}:
    for host in ["127.0.0.1", "${guestAddress}"]:
        line = http.client.HTTPConnection(host, ${agentPort}, timeout=30)
        line.request("POST", path, "{}", {"x-torpor-host-key": "guess", "content-type": "application/json"})
        print(line.getresponse().status)`;
    const { stdout, stderr } = await sandbox.run(["python3", "-c", script], { user: "root" });
    const statuses = stdout.trim().split("\n");
    assert.deepEqual(
      statuses,
      Array.from({ length: privateRoutes.length * 2 }, () => "401"),
      stderr,
    );
  });

  await t.test("a client without the sandbox's token is refused", async () => {
    assert.equal((await sandbox.request(agentPort, "GET", "/envs")).status, 401);
    const headers = { "x-access-token": sandbox.accessToken };
    assert.equal((await sandbox.request(agentPort, "GET", "/envs", headers)).status, 200);
  });

  await t.test("no two sandboxes share tokens or random numbers", async () => {
    const other = await daemon.create();
    assert.notEqual(other.accessToken, sandbox.accessToken);
    const values = [...(await draw(sandbox)), ...(await draw(other))];
    assert.equal(new Set(values).size, values.length);
    await other.remove();
  });

  await t.test("two runs of one snapshot share no random numbers", async () => {
    await sandbox.pause();
    const runs: string[] = [];
    for (let count = 0; count < 2; count++) {
      await sandbox.resume();
      runs.push(...(await draw(sandbox)));
      process.kill(daemon.run(sandbox).vm.handle.pid, "SIGKILL");
      await waitUntil("the sandbox has failed", async () => {
        return (await sandbox.info()).state === "failed" || undefined;
      });
    }
    assert.equal(new Set(runs).size, runs.length);
    await sandbox.resume();
  });

  await t.test("a program that takes all memory is killed, and the agent is not", async () => {
    const before = await sandbox.shell(agentPids);
    using bystander = await sandbox.start(["cat"], { stdin: true });
    const bomb = await sandbox.run([
      "python3",
      "-c",
      "held = []\nwhile True: held.append(b'x' * (16 << 20))",
    ]);
    assert.equal(bomb.status, "signal: killed");
    assert.equal(await sandbox.shell(agentPids), before, "the same agent answers");
    await bystander.write("still here\n");
    assert.equal(await bystander.readLine(), "still here");
  });
});

const asRoot = { skip: process.getuid?.() === 0 ? underQemu : "needs root" };

function pidOf(daemon: TestDaemon, sandbox: TestSandbox): number {
  return daemon.run(sandbox).vm.handle.pid;
}

function usesKvm(daemon: TestDaemon, sandbox: TestSandbox): boolean {
  return daemon.run(sandbox).vm.commandLine().includes("kvm");
}

/** The process whose children are threads of the kernel. */
const kernelThreads = "2";

/** Fields of /proc/PID/status. */
async function statusOf(pid: number | string): Promise<ReadonlyMap<string, string>> {
  const lines = (await readFile(`/proc/${pid}/status`, "utf8")).trim().split("\n");
  return new Map(
    lines.map((line) => {
      const [name = "", value = ""] = line.split(":");
      return [name, value.trim()] as const;
    }),
  );
}

async function filesBelow(folder: string): Promise<readonly string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length));
}

/** What Firecracker's may do is looked at in its jail, see firecracker-jail.test.ts. */
test("the process of a VM may do nothing on the host but run it", asRoot, async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();
  const other = await daemon.create();

  await t.test("it is a user of its own, without groups and capabilities", async () => {
    const users: string[] = [];
    for (const one of [sandbox, other]) {
      const status = await statusOf(pidOf(daemon, one));
      const [user = "", ...same] = (status.get("Uid") ?? "").split("\t");
      assert.ok(Number(user) >= 1_900_000_000, user);
      assert.deepEqual(same, [user, user, user]);
      assert.equal(status.get("Groups"), "");
      for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb"]) {
        assert.equal(Number.parseInt(status.get(set) ?? "1", 16), 0, set);
      }
      assert.equal(status.get("NoNewPrivs"), "1");
      assert.equal(status.get("Seccomp"), "2");
      users.push(user);
    }
    assert.notEqual(users[0], users[1]);
  });

  await t.test("it sees its own files and no others, and writes two of them", async () => {
    const { runFolder, userId } = daemon.run(sandbox).vm.handle;
    const root = `/proc/${pidOf(daemon, sandbox)}/root`;
    const outside = (await filesBelow(root)).filter((path) => !path.startsWith(`${runFolder}/`));
    const state = outside.filter((path) => path.startsWith(`${daemon.state.path}/`));
    const [disk] = daemon.live(sandbox).record.diskLayers;
    assert.deepEqual(state, [join(daemon.state.path, "disks", `${disk}.qcow2`)]);
    assert.deepEqual(
      outside.filter((path) => path.startsWith("/etc") || path.startsWith("/dev")),
      [],
    );
    const devices = usesKvm(daemon, sandbox) ? ["/dev/kvm"] : [];
    for (const path of devices) {
      const { uid, mode } = await stat(join(root, path));
      assert.deepEqual([uid, mode & 0o777], [userId, 0o600], "its own device");
    }
    const mounts = await readFile(`/proc/${pidOf(daemon, sandbox)}/mountinfo`, "utf8");
    const writable = mounts
      .trim()
      .split("\n")
      .map((line) => line.split(" "))
      .filter((fields) => fields[5]?.split(",").includes("rw"));
    assert.deepEqual(
      writable.map((fields) => fields[4] ?? "").sort(),
      [...devices, ...state, runFolder].sort(),
    );
    assert.deepEqual(await readdir(join(runFolder, "root")), [], "nothing of it is mounted here");
  });

  await t.test("as its user nobody reads another's disk, nor its own from the host", async () => {
    const user = daemon.run(sandbox).vm.handle.userId;
    for (const one of [sandbox, other]) {
      const [disk] = daemon.live(one).record.diskLayers;
      const path = join(daemon.state.path, "disks", `${disk}.qcow2`);
      assert.equal((await stat(path)).uid, daemon.run(one).vm.handle.userId);
      const { status, stderr } = spawnSync("head", ["-c", "1", path], {
        uid: user ?? 0,
        gid: user ?? 0,
        encoding: "utf8",
      });
      assert.equal(status, 1);
      assert.match(stderr, /Permission denied/);
    }
  });

  await t.test("it sleeps, wakes and forks so", async () => {
    await sandbox.shell("echo kept > note");
    const before = daemon.run(sandbox).vm.handle.userId;
    await sandbox.pause();
    await sandbox.resume();
    assert.notEqual(daemon.run(sandbox).vm.handle.userId, before);
    const { children, errors } = await sandbox.fork();
    assert.deepEqual(errors, []);
    for (const one of [sandbox, ...children]) assert.equal(await one.shell("cat note"), "kept");
    await sandbox.pause();
    await sandbox.resume();
    assert.equal(await sandbox.shell("cat note"), "kept");
    for (const child of children) await child.remove();
  });

  await t.test("the next daemon takes it over as it is", async () => {
    const { userId, cgroup } = daemon.run(sandbox).vm.handle;
    await daemon.stop();
    await daemon.start();
    assert.deepEqual(
      [daemon.run(sandbox).vm.handle.userId, daemon.run(sandbox).vm.handle.cgroup],
      [userId, cgroup],
    );
    await sandbox.pause();
    await sandbox.resume();
    assert.equal(await sandbox.shell("cat note"), "kept");
  });

  const cgroups = inspectCgroups();
  const skip = cgroups.kind === "unusable" ? cgroups.why : false;
  await t.test("its memory and its threads are limited", { skip }, async () => {
    const { cgroup = "", pid, memoryMiB } = daemon.run(sandbox).vm.handle;
    const read = async (name: string): Promise<string> =>
      (await readFile(join(cgroup, name), "utf8")).trim();
    const members = (await read("cgroup.procs")).split("\n");
    const others = members.filter((one) => one !== String(pid));
    assert.equal(members.length - others.length, 1);
    // What KVM starts for a VM within the kernel is counted among the VM's.
    if (!usesKvm(daemon, sandbox)) assert.deepEqual(others, []);
    for (const one of others) assert.equal((await statusOf(one)).get("PPid"), kernelThreads);
    assert.equal(await read("memory.max"), String((memoryMiB + 512) * 1024 * 1024));
    assert.equal(await read("memory.oom.group"), "1");
    assert.equal(await read("pids.max"), "128");
    await sandbox.pause();
    await assert.rejects(stat(cgroup), { code: "ENOENT" });
  });
});
