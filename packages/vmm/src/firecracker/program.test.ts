import assert from "node:assert/strict";
import { mkdtempDisposable, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Deadline } from "@torpor/std";
import { installFakeFirecracker } from "@torpor/testing";
import { inspectProgram, installedFirecracker } from "./program.ts";
import { assertSupported, isBefore, parseRelease } from "./version.ts";

const missing = { code: "vmm.missing" } as const;

test("releases that damage guests are refused, each for its reason", () => {
  for (const [text, reason] of [
    ["Firecracker v1.14.2", /1\.14\.2 is not run: it corrupts diff snapshots .* 3 GiB/],
    ["Firecracker v1.15.1", /1\.15\.1 is not run: guests are not told/],
    ["Firecracker v1.16.0", /1\.16\.0 is not run: restored guests lose/],
  ] as const) {
    const check = (): void => assertSupported(parseRelease(text));
    assert.throws(check, { ...missing, message: reason, advice: /1\.16\.1 or newer/ });
  }
  for (const text of ["Firecracker v1.16.1", "v1.17.0-dev", "Firecracker v2.0.0\n\nmore"]) {
    assertSupported(parseRelease(text));
  }
  assert.throws(() => parseRelease("QEMU emulator version 10"), missing);
});

test("isBefore() compares number by number", () => {
  assert.ok(isBefore([1, 9, 9], [1, 16, 0]));
  assert.ok(isBefore([1, 16, 1], [2, 0, 0]));
  assert.ok(!isBefore([1, 16, 1], [1, 16, 1]));
  assert.ok(!isBefore([1, 16, 10], [1, 16, 9]));
});

test("installedFirecracker() takes what is named, else what PATH has", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-program-"));
  const program = await installFakeFirecracker(folder.path);
  const { firecracker, jailer } = program;
  assert.deepEqual(installedFirecracker({ PATH: `/nonexistent:${folder.path}` }), program);
  const named = { FIRECRACKER_BIN: firecracker, JAILER_BIN: jailer };
  assert.deepEqual(installedFirecracker(named), program);
  assert.throws(() => installedFirecracker({ PATH: "/nonexistent" }), {
    ...missing,
    message: /no firecracker in PATH/,
  });
  await writeFile(join(folder.path, "plain"), "");
  const plain = { ...named, JAILER_BIN: join(folder.path, "plain") };
  assert.throws(() => installedFirecracker(plain), { ...missing, message: /JAILER_BIN/ });
});

test("inspectProgram() wants both of one release, and tells builds apart", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-program-"));
  const deadline = Deadline.after(20_000, "the test");
  const inspect = async (name: string, release: string, jailerRelease = release) =>
    await inspectProgram(
      await installFakeFirecracker(join(folder.path, name), { release, jailerRelease }),
      deadline,
    );
  const { version, release } = await inspect("new", "1.17.0");
  assert.match(version, /^1\.17\.0 \([0-9a-f]{12}\)$/);
  assert.deepEqual(release, [1, 17, 0]);
  assert.notEqual((await inspect("other", "1.17.1")).version, version);
  await assert.rejects(inspect("old", "1.15.0"), missing);
  await assert.rejects(inspect("mixed", "1.17.0", "1.16.1"), {
    ...missing,
    message: /jailer is 1\.16\.1 and Firecracker 1\.17\.0/,
  });
});
