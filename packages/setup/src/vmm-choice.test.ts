import assert from "node:assert/strict";
import { test } from "node:test";
import { defaultVmm } from "./vmm-choice.ts";

test("templates are made with QEMU unless TORPOR_VMM names the other", () => {
  assert.equal(defaultVmm({}), "qemu");
  assert.equal(defaultVmm({ TORPOR_VMM: "firecracker" }), "firecracker");
  assert.throws(() => defaultVmm({ TORPOR_VMM: "xen" }), {
    code: "argument.invalid",
    message: /TORPOR_VMM/,
  });
});
