import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { test } from "node:test";
import { sha256InBackground } from "./sha256.ts";

test("is what Node's own is, of parts of a buffer and of many at once", async () => {
  const bytes = randomBytes(3 << 20);
  const parts = [0, 1, 4096, 1 << 20, bytes.length].map((end) => bytes.subarray(end >> 1, end));
  const found = await Promise.all(parts.map((part) => sha256InBackground(part)));
  assert.deepEqual(
    found,
    parts.map((part) => createHash("sha256").update(part).digest("hex")),
  );
});
