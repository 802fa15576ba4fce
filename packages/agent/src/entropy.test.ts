import assert from "node:assert/strict";
import { test } from "node:test";
import { freshBytes, randomHash, renewGenerators } from "./entropy.ts";

const isRoot = process.geteuid?.() === 0;

test("freshBytes() reads as many as asked, and other ones each time", () => {
  assert.equal(freshBytes(1000).length, 1000);
  assert.notDeepEqual(freshBytes(16), freshBytes(16));
});

test("renewGenerators() works on a real kernel", { skip: !isRoot }, () => {
  const before = randomHash();
  renewGenerators(Buffer.alloc(64, 3));
  assert.notEqual(randomHash(), before);
});
