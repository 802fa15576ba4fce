/** What a sandbox keeps of a VM that ended by itself. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { lastLinesOf } from "./run.ts";

const harmless = "torpor-qemu: Failed to open /dev/null for OFD lock probing: No such file";

test("the last line of a guest that panicked is its own, and not a harmless one of QEMU", () => {
  const consoleTail = "[  9.1] Kernel panic - not syncing: sysrq triggered crash\n";
  const lines = lastLinesOf({ consoleTail, vmmTail: `${harmless}\n` });
  assert.deepEqual(lines, ["[  9.1] Kernel panic - not syncing: sysrq triggered crash"]);
});

test("what QEMU says last stands behind the console", () => {
  const lines = lastLinesOf({ consoleTail: "login:\n", vmmTail: `${harmless}\nout of memory\n` });
  assert.deepEqual(lines, ["login:", "out of memory"]);
});
