import assert from "node:assert/strict";
import { test } from "node:test";
import { takeChunkBuffer } from "./chunk-buffers.ts";

test("a buffer that is given back twice is not given to two", () => {
  const first = takeChunkBuffer();
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  using second = takeChunkBuffer();
  using third = takeChunkBuffer();
  assert.equal(second.bytes, first.bytes, "it is used again");
  assert.notEqual(third.bytes, second.bytes);
});
