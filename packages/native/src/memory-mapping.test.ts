import assert from "node:assert/strict";
import { closeSync, ftruncateSync, mkdtempDisposableSync, openSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { mapFile, populateMapping } from "./memory-mapping.ts";
import { mappedPages, pageBytes } from "./pagemap.ts";

test("populateMapping() has pages mapped, and does nothing beyond a file's end", () => {
  using folder = mkdtempDisposableSync(join(tmpdir(), "torpor-mapping-"));
  const fd = openSync(join(folder.path, "file"), "wx+");
  try {
    const pages = 64;
    writeSync(fd, Buffer.alloc(pages * pageBytes, 1));
    using mapping = mapFile(fd, pages * pageBytes);
    const start = mapping.address;
    const mapped = (): number =>
      mappedPages(process.pid, { start, end: start + pages * pageBytes }).reduce(
        (sum, range) => sum + (range.end - range.start) / pageBytes,
        0,
      );
    assert.equal(mapped(), 0);
    populateMapping(start, 32 * pageBytes);
    assert.ok(mapped() >= 32, String(mapped()));
    ftruncateSync(fd, 0);
    populateMapping(start, pages * pageBytes);
    assert.equal(mapped(), 0);
  } finally {
    closeSync(fd);
  }
});
