import assert from "node:assert/strict";
import { test } from "node:test";
import { kvmGroup } from "./kvm-group.ts";

const own = 200_001;

test("a VM has the group of the KVM device, or its own where all may open it", () => {
  assert.equal(kvmGroup({ gid: 104, mode: 0o020660 }, own), 104);
  assert.equal(kvmGroup({ gid: 104, mode: 0o020666 }, own), own);
  assert.equal(kvmGroup({ gid: 0, mode: 0o020666 }, own), own);
});

test("a VM never has root's group, nor one that may not open the device", () => {
  for (const device of [
    { gid: 0, mode: 0o020660 },
    { gid: 0, mode: 0o020600 },
    { gid: 104, mode: 0o020600 },
    { gid: 104, mode: 0o020640 },
  ]) {
    assert.throws(() => kvmGroup(device, own), { code: "vmm.failed", effect: "none" });
  }
});
