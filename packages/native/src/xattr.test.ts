import assert from "node:assert/strict";
import { mkdtempDisposable, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { systemCode } from "@torpor/std";
import { readXattrs, removeXattr, writeXattr } from "./xattr.ts";

test("attributes are written, listed by prefix and removed", async (t) => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-xattr-"));
  const path = join(folder.path, "file");
  await writeFile(path, "x");
  try {
    writeXattr(path, "user.e2b.a", "1");
  } catch (cause) {
    if (systemCode(cause) !== "ENOTSUP") throw cause;
    t.skip("this file system has no user attributes");
    return;
  }
  writeXattr(path, "user.e2b.b", "zwölf");
  writeXattr(path, "user.other", "no");
  assert.deepEqual(
    readXattrs(path, "user.e2b."),
    new Map([
      ["user.e2b.a", "1"],
      ["user.e2b.b", "zwölf"],
    ]),
  );
  removeXattr(path, "user.e2b.a");
  removeXattr(path, "user.e2b.a");
  assert.deepEqual([...readXattrs(path, "user.e2b.").keys()], ["user.e2b.b"]);
  assert.deepEqual(readXattrs(join(folder.path, "missing"), "user."), new Map());
});
