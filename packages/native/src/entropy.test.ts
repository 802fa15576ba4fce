import assert from "node:assert/strict";
import { test } from "node:test";
import { reseedKernel, reseedOpenSsl } from "./entropy.ts";

const isRoot = process.geteuid?.() === 0;

test("reseedKernel() is accepted by the kernel", { skip: !isRoot }, () => {
  reseedKernel(Buffer.alloc(64, 7));
  reseedKernel(Buffer.alloc(64, 7));
});

test("reseedOpenSsl() finds the symbol in Node and succeeds", () => {
  assert.doesNotThrow(reseedOpenSsl);
});
