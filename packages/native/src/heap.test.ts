import assert from "node:assert/strict";
import { test } from "node:test";
import { shrinkHeap } from "./heap.ts";

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
