import assert from "node:assert/strict";
import { test } from "node:test";
import { Deadline } from "@torpor/std";
import type { TemplateManifest } from "@torpor/storage";
import { FirecrackerDriver, QemuDriver, type VmHandle } from "@torpor/vmm";
import { Pagers } from "./pagers.ts";
import { driversOf, reachingDriver } from "./drivers.ts";

function template(vmm: "qemu" | "firecracker", vmmCopy?: string): TemplateManifest {
  const identity = { vmm, accelerator: "kvm" };
  return { identity, ...(vmmCopy === undefined ? {} : { vmmCopy }) } as TemplateManifest;
}

test("driversOf() gives each template the VMM it was made with, and one driver for each", () => {
  const driverOf = driversOf("/nonexistent", undefined);
  const firecracker = driverOf(template("firecracker"));
  assert.ok(firecracker instanceof FirecrackerDriver);
  assert.equal(driverOf(template("firecracker")), firecracker);
  const copy = driverOf(template("qemu", "0123456789abcdef"));
  assert.ok(copy instanceof QemuDriver);
  assert.equal(driverOf(template("qemu", "0123456789abcdef")), copy);
  assert.notEqual(driverOf(template("qemu")), copy);
});

test("reachingDriver() knows by a handle which VMM it is of", async () => {
  const handle: VmHandle = {
    pid: process.pid,
    startTicks: 0,
    bootId: "another boot",
    runFolder: "/nonexistent",
    memoryPath: "/nonexistent",
    memoryMiB: 1,
  };
  const disk = { pid: process.pid, startTicks: 0, target: "/nonexistent" };
  const firecracker = { version: "1.16.1 (0123456789ab)", tapName: "tap0", disk };
  const driver = reachingDriver("tcg", new Pagers());
  for (const one of [handle, { ...handle, firecracker }]) {
    const deadline = Deadline.after(5_000, "the test");
    await assert.rejects(driver.adopt(one, deadline), { code: "vmm.exited" });
  }
  assert.deepEqual(await driver.processesBelow("/nonexistent"), []);
});
