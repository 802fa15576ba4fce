import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  mkdtempDisposableSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type ViewEntry, withView } from "./filesystem-view.ts";

const asRoot = { skip: process.getuid?.() === 0 ? false : "needs root" };

function seenIn<T>(entries: readonly ViewEntry[], look: () => T): T {
  using root = mkdtempDisposableSync(join(tmpdir(), "torpor-view-"));
  return withView(root.path, entries, look);
}

test("a view has what is named, as it may be used, and nothing else", asRoot, () => {
  using folder = mkdtempDisposableSync(join(tmpdir(), "torpor-shown-"));
  const path = (name: string): string => join(folder.path, name);
  for (const name of ["sealed", "own", "hidden"]) writeFileSync(path(name), name);
  mkdirSync(path("folder"));
  writeFileSync(path("folder/file"), "in a folder");
  seenIn(
    [
      { path: path("sealed") },
      { path: path("own"), writable: true },
      { path: path("folder") },
      // Stands for any device that the process has no right to use.
      { path: "/dev/null", writable: true },
    ],
    () => {
      assert.equal(readFileSync(path("sealed"), "utf8"), "sealed");
      assert.equal(readFileSync(path("folder/file"), "utf8"), "in a folder");
      assert.throws(() => writeFileSync(path("sealed"), ""), { code: "EROFS" });
      assert.throws(() => writeFileSync(path("new"), ""), { code: "EROFS" });
      assert.throws(() => readFileSync("/dev/null"), { code: "EACCES" });
      writeFileSync(path("own"), "changed");
      for (const hidden of [path("hidden"), "/usr", "/proc"]) assert.ok(!existsSync(hidden));
    },
  );
  assert.equal(readFileSync(path("own"), "utf8"), "changed");
  assert.ok(existsSync(path("hidden")));
});

test(
  "a device in a view is a node of its user alone, and the host's stays as it is",
  asRoot,
  () => {
    const owner = 1_900_000_001;
    const onHost = statSync("/dev/null");
    seenIn([{ path: "/dev/null", deviceOwner: owner }], () => {
      const { uid, gid, mode, rdev } = statSync("/dev/null");
      assert.deepEqual({ uid, gid, rdev }, { uid: owner, gid: owner, rdev: onHost.rdev });
      assert.equal(mode & 0o777, 0o600);
      writeFileSync("/dev/null", "usable");
      assert.equal(readFileSync("/dev/null", "utf8"), "");
    });
    const { uid, mode } = statSync("/dev/null");
    assert.deepEqual({ uid, mode }, { uid: onHost.uid, mode: onHost.mode });
  },
);
