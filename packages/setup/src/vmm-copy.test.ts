import assert from "node:assert/strict";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import { parseLdd } from "./vmm-copy.ts";

test("parseLdd() lists each library once, the loader without a name, and not the kernel's own", () => {
  const text = [
    "/usr/bin/program:",
    "\tlinux-vdso.so.1 (0x00007faa45c79000)",
    "\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007faa45b9e000)",
    "\t/lib64/ld-linux-x86-64.so.2 (0x00007faa45c7b000)",
    "/usr/lib/module.so:",
    "\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f0000000000)",
    "\tstatically linked",
  ].join("\n");
  assert.deepEqual(parseLdd(text), [
    { name: "libz.so.1", file: "/lib/x86_64-linux-gnu/libz.so.1" },
    { name: undefined, file: "/lib64/ld-linux-x86-64.so.2" },
  ]);
});

test("parseLdd() names a library that is not there", () => {
  assert.throws(
    () => parseLdd("\tlibz.so.1 => not found\n"),
    (error) => TorporError.is(error) && error.code === "vmm.failed" && /libz/.test(error.message),
  );
});
