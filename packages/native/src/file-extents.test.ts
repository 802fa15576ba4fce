import assert from "node:assert/strict";
import { mkdtempDisposableSync, closeSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { dataRanges, keepsHoles } from "./file-extents.ts";

test("dataRanges() names what was written, also far out and also zeros", () => {
  using folder = mkdtempDisposableSync(join(tmpdir(), "torpor-extents-"));
  assert.ok(keepsHoles(folder.path), "this test is about such a file system");
  const fd = openSync(join(folder.path, "sparse"), "wx+");
  try {
    assert.deepEqual(dataRanges(fd), []);
    const sizeBytes = 5 * 2 ** 30;
    ftruncateSync(fd, sizeBytes);
    assert.deepEqual(dataRanges(fd), []);
    writeSync(fd, Buffer.alloc(8192), 0, 8192, 4096);
    writeSync(fd, Buffer.alloc(4096, 1), 0, 4096, sizeBytes - 4096);
    assert.deepEqual(dataRanges(fd), [
      { start: 4096, end: 12_288 },
      { start: sizeBytes - 4096, end: sizeBytes },
    ]);
  } finally {
    closeSync(fd);
  }
});
