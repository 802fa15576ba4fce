import assert from "node:assert/strict";
import { mkdtempDisposable, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { systemCode } from "@torpor/std";
import type { DiskPath } from "./disk-path.ts";
import { hasXattrs, readXattrs, removeXattr, writeXattr } from "./xattr.ts";

test("attributes are written, listed by prefix and removed", async (t) => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-xattr-"));
  const path = join(folder.path, "file");
  await writeFile(path, "x");
  const write = async (name: string, value: string): Promise<void> =>
    await writeXattr(path, { name: Buffer.from(name), value: Buffer.from(value) }, true);
  const names = async (at: DiskPath, follow = true): Promise<string[]> =>
    (await readXattrs(at, { follow, prefix: "user." })).map(({ name }) => name.toString()).sort();
  try {
    await write("user.e2b.a", "1");
  } catch (cause) {
    if (systemCode(cause) !== "ENOTSUP") throw cause;
    t.skip("this file system has no user attributes");
    return;
  }
  await write("user.e2b.b", "zwölf");
  await write("user.other", "no");
  const [b] = await readXattrs(path, { follow: true, prefix: "user.e2b.b" });
  assert.deepEqual(b, { name: Buffer.from("user.e2b.b"), value: Buffer.from("zwölf") });
  await removeXattr(path, Buffer.from("user.e2b.a"));
  await removeXattr(path, Buffer.from("user.e2b.a"));
  assert.deepEqual(await names(path), ["user.e2b.b", "user.other"]);
  assert.ok(hasXattrs(path));
  assert.ok(!hasXattrs(folder.path));
  assert.deepEqual(await names(Buffer.from(path)), ["user.e2b.b", "user.other"]);
  const link = join(folder.path, "link");
  await symlink("file", link);
  assert.deepEqual(await names(link), ["user.e2b.b", "user.other"]);
  assert.deepEqual(await names(link, false), []);
  assert.deepEqual(await names(join(folder.path, "missing")), []);
  await assert.rejects(removeXattr(join(folder.path, "missing"), Buffer.from("user.a")), {
    code: "ENOENT",
  });
});
