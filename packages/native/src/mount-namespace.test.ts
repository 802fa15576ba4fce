import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  mkdirSync,
  mkdtempDisposableSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { inMountsOf, withMounts } from "./mount-namespace.ts";

const asRoot = { skip: process.getuid?.() === 0 ? false : "needs root" };

test("withMounts() shows files to those started in it, and to nobody else", asRoot, async () => {
  using folder = mkdtempDisposableSync(join(tmpdir(), "torpor-mounts-"));
  const path = (name: string): string => join(folder.path, name);
  for (const name of ["there", "here"]) mkdirSync(path(name));
  writeFileSync(path("there/file"), "seen");
  const home = readlinkSync("/proc/thread-self/ns/mnt");
  const child = withMounts([{ source: path("there"), target: path("here") }], () =>
    spawn("sleep", ["60"], { stdio: "ignore" }),
  );
  try {
    const pid = child.pid ?? 0;
    assert.deepEqual(readdirSync(path("here")), []);
    assert.equal(readlinkSync("/proc/thread-self/ns/mnt"), home);
    const seen = inMountsOf(pid, () => readFileSync(path("here/file"), "utf8"));
    assert.equal(seen, "seen");
    assert.throws(() => inMountsOf(pid, () => writeFileSync(path("here/file"), "")), {
      code: "EROFS",
    });
    assert.equal(readlinkSync("/proc/thread-self/ns/mnt"), home);
    assert.equal(process.cwd(), readlinkSync("/proc/thread-self/cwd"));
  } finally {
    child.kill("SIGKILL");
    await once(child, "exit");
  }
});
