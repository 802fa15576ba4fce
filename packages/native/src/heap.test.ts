import assert from "node:assert/strict";
import { test } from "node:test";
import { shrinkGrownHeap, shrinkHeap } from "./heap.ts";

test("shrinkHeap() collects what nothing refers to any more", () => {
  let garbage: object | undefined = { bytes: Buffer.alloc(1 << 20) };
  const reference = new WeakRef(garbage);
  garbage = undefined;
  return new Promise<void>((resolve) => {
    setImmediate(() => {
      shrinkHeap();
      assert.equal(reference.deref(), undefined);
      resolve();
    });
  });
});

test("shrinkGrownHeap() leaves a heap alone that has hardly grown", () => {
  shrinkHeap();
  assert.equal(shrinkGrownHeap(), false);
  const grown = Buffer.alloc(32 << 20, 1);
  assert.equal(shrinkGrownHeap(), true);
  assert.equal(shrinkGrownHeap(), false);
  assert.equal(grown.length, 32 << 20);
});
