import assert from "node:assert/strict";
import {
  closeSync,
  fsyncSync,
  mkdtempDisposableSync,
  openSync,
  statfsSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { waitUntil } from "@torpor/testing";
import { check, libc } from "./libc.ts";
import { mapFile } from "./memory-mapping.ts";
import { pageBytes } from "./pagemap.ts";
import { dropFromCache, readAhead } from "./read-ahead.ts";

const tmpfsMagic = 0x0102_1994;
const skip = statfsSync(tmpdir()).type === tmpfsMagic ? "needs a folder on a disk" : false;
/** More than the read-ahead of any disk, and not a multiple of one request. */
const fileBytes = 48 * 1024 * 1024 + 3 * pageBytes;

const mincore = libc.func("int mincore(long address, size_t length, _Out_ uint8_t *resident)") as (
  address: number,
  length: number,
  resident: Uint8Array,
) => number;

function residentPages(fd: number): readonly number[] {
  using mapping = mapFile(fd, fileBytes);
  const flags = Buffer.alloc(fileBytes / pageBytes);
  check(mincore(mapping.address, fileBytes, flags), "mincore");
  return [...flags.keys()].filter((page) => ((flags[page] ?? 0) & 1) === 1);
}

test(
  "readAhead() brings all of a range, however long, and dropFromCache() takes it away",
  { skip },
  async () => {
    using folder = mkdtempDisposableSync(join(tmpdir(), "torpor-read-ahead-"));
    const fd = openSync(join(folder.path, "file"), "wx+");
    try {
      writeSync(fd, Buffer.alloc(fileBytes, 1));
      fsyncSync(fd);
      dropFromCache(fd);
      assert.equal(residentPages(fd).length, 0);
      const startBytes = 5 * pageBytes;
      readAhead(fd, startBytes, fileBytes - startBytes);
      const wanted = fileBytes / pageBytes - 5;
      const resident = await waitUntil("the disk has brought it", () => {
        const pages = residentPages(fd);
        return Promise.resolve(pages.length >= wanted ? pages : undefined);
      });
      assert.equal(resident.at(-1), fileBytes / pageBytes - 1);
    } finally {
      closeSync(fd);
    }
  },
);
