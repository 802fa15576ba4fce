import assert from "node:assert/strict";
import { mkdtempDisposable } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import { type DoctorFacts, atLeast, gatherFacts, judge, parseMemoryAvailable } from "./doctor.ts";

const damaged = new TorporError("vmm.damaged", "a file is missing");

const healthy: DoctorFacts = {
  platform: "linux",
  arch: "x64",
  os: { id: "debian", codename: "bookworm", version: 12, prettyName: "Debian 12" },
  isRoot: true,
  nodeVersion: "v24.21.0",
  kernelRelease: "6.18.0",
  qemuVersion: "10.0.2",
  accelerator: { accelerator: "kvm", reason: "a guest booted" },
  kvmDevice: { path: "/dev/kvm", state: "usable", group: undefined },
  tunDevice: { path: "/dev/net/tun", state: "usable", group: undefined },
  networkKind: "namespace",
  cacheDir: "/var/cache/torpor",
  closedCachePath: undefined,
  egressProblem: undefined,
  cgroupProblem: undefined,
  missingNamespaces: [],
  missingPackages: [],
  diskFreeBytes: 50 * 1024 ** 3,
  memoryAvailableBytes: 8 * 1024 ** 3,
  stateProblem: undefined,
  stateDir: "/var/lib/torpor",
  exposures: [],
  missingKeyFile: undefined,
  layers: ["base-0123"],
  vmmCopies: [
    { key: "01", version: "10.0.2", isUsed: true, problem: undefined },
    { key: "02", version: "9.2.0", isUsed: false, problem: damaged },
  ],
  templates: ["base"],
  templateStates: [],
};

test("judge() passes a healthy machine, without a fix to read", () => {
  const checks = judge(healthy);
  assert.deepEqual(
    checks.filter((check) => !check.ok || check.fix !== ""),
    [],
  );
});

const broken: readonly (readonly [string, Partial<DoctorFacts>])[] = [
  ["machine", { arch: "arm64" }],
  ["system", { os: { id: "debian", codename: "bullseye", version: 11, prettyName: "Debian 11" } }],
  ["root", { isRoot: false }],
  ["node", { nodeVersion: "v20.20.2" }],
  ["Debian packages", { missingPackages: ["qemu-utils"] }],
  ["QEMU", { qemuVersion: undefined }],
  ["QEMU", { qemuVersion: "7.1.9" }],
  ["KVM", { accelerator: { accelerator: "tcg", reason: "the guest did not boot" } }],
  ["/dev/net/tun", { tunDevice: { path: "/dev/net/tun", state: "missing", group: undefined } }],
  ["cache folder", { closedCachePath: "/var/cache/torpor" }],
  ["internet", { egressProblem: "the kernel refuses it" }],
  ["cgroups", { cgroupProblem: "no cgroup v2 is mounted" }],
  ["namespaces", { missingNamespaces: ["net"] }],
  ["PAGEMAP_SCAN", { kernelRelease: "6.1.0-50-amd64" }],
  ["state folder", { stateProblem: "it is read-only" }],
  ["access", { exposures: [{ path: "/var/lib/torpor", why: "has mode 0755", advice: undefined }] }],
  [
    "access",
    { exposures: [{ path: "/var/lib/torpor", why: "is a link", advice: "Name the place." }] },
  ],
  ["sealing key", { missingKeyFile: "/etc/torpor/sealing.key" }],
  ["free disk", { diskFreeBytes: 1 }],
  ["free memory", { memoryAvailableBytes: 1 }],
  ["base image", { layers: ["rootfs-0123"] }],
  [
    "copies of QEMU",
    { vmmCopies: [{ key: "01", version: undefined, isUsed: true, problem: damaged }] },
  ],
  ["templates", { templates: [] }],
];

for (const [name, facts] of broken) {
  test(`judge() fails only "${name}" when ${Object.keys(facts).join()} is wrong, with one line to fix it`, () => {
    const failed = judge({ ...healthy, ...facts }).filter((check) => !check.ok);
    assert.deepEqual(
      failed.map((check) => check.name),
      [name],
    );
    assert.match(failed[0]?.fix ?? "", /^[^\n]{10,160}$/);
  });
}

test("judge() asks nothing of a user without root that only root needs", () => {
  const closed = { state: "closed", group: undefined } as const;
  const facts: DoctorFacts = {
    ...healthy,
    isRoot: false,
    networkKind: "user",
    accelerator: { accelerator: "tcg", reason: "a guest stands still under KVM" },
    kvmDevice: { path: "/dev/kvm", ...closed },
    tunDevice: { path: "/dev/net/tun", ...closed },
    layers: [],
  };
  assert.deepEqual(
    judge(facts).filter((check) => check.required && !check.ok),
    [],
  );
});

test("judge() tells a device that is closed from one that is missing", () => {
  const tunDevice = { path: "/dev/net/tun", state: "closed", group: undefined } as const;
  const kvmDevice = { path: "/dev/kvm", state: "closed", group: "kvm" } as const;
  const checks = judge({ ...healthy, tunDevice, kvmDevice, accelerator: undefined });
  const of = (name: string): string => {
    const { detail, fix } = checks.find((check) => check.name === name) ?? assert.fail();
    return `${detail}: ${fix}`;
  };
  assert.match(of("/dev/net/tun"), /is there, and closed to this user: Run as root: setfacl /);
  assert.match(of("KVM"), /is there, and closed to this user: Run as root: usermod .* kvm /);
});

test("gatherFacts() reads this machine and leaves the state folder as it was", async () => {
  await using dir = await mkdtempDisposable(join(tmpdir(), "torpor-doctor-"));
  const missing = join(dir.path, "not", "there", "yet");
  const facts = await gatherFacts({
    stateDir: missing,
    cacheDir: missing,
    keyFile: join(missing, "sealing.key"),
  });
  assert.equal(facts.stateProblem, undefined);
  assert.ok(facts.diskFreeBytes > 0);
  assert.ok(facts.memoryAvailableBytes > 0);
  assert.deepEqual([facts.exposures, facts.missingKeyFile], [[], undefined]);
  const keyFile = join(dir.path, "sealing.key");
  const here = await gatherFacts({ stateDir: dir.path, cacheDir: dir.path, keyFile });
  assert.equal(here.stateProblem, undefined);
  assert.deepEqual(here.layers, []);
});

test("atLeast() compares numbers, not text", () => {
  assert.ok(atLeast("10.0.2", [7, 2]));
  assert.ok(atLeast("7.2.0", [7, 2]));
  assert.ok(!atLeast("7.1", [7, 2]));
  assert.ok(atLeast("6.18.0-x", [6, 7]));
});

test("parseMemoryAvailable() reads kibibytes", () => {
  assert.equal(parseMemoryAvailable("MemTotal: 1 kB\nMemAvailable:    2048 kB\n"), 2_097_152);
  assert.equal(parseMemoryAvailable(""), 0);
});
