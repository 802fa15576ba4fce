import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { test } from "node:test";
import { type CpioEntry, initramfsInit, writeNewc } from "./initramfs.ts";

const entries: readonly CpioEntry[] = [
  { kind: "dir", path: "bin", mode: 0o755 },
  { kind: "file", path: "bin/a", mode: 0o755, data: Buffer.from("hello") },
  { kind: "file", path: "empty", mode: 0o600, data: Buffer.alloc(0) },
  { kind: "symlink", path: "link", target: "bin/a" },
  { kind: "charDevice", path: "console", mode: 0o600, major: 5, minor: 1 },
];

interface Parsed {
  readonly name: string;
  readonly mode: number;
  readonly major: number;
  readonly minor: number;
  readonly data: string;
}

/** An independent reader of the format, as in the kernel's documentation. */
function parseNewc(archive: Buffer): readonly Parsed[] {
  const found: Parsed[] = [];
  for (let at = 0; ;) {
    assert.equal(archive.toString("latin1", at, at + 6), "070701");
    const field = (index: number): number =>
      Number.parseInt(archive.toString("latin1", at + 6 + index * 8, at + 14 + index * 8), 16);
    const [mode, size, major, minor, nameBytes] = [1, 6, 9, 10, 11].map(field) as [
      number,
      number,
      number,
      number,
      number,
    ];
    const name = archive.toString("latin1", at + 110, at + 110 + nameBytes - 1);
    if (name === "TRAILER!!!") return found;
    const dataAt = Math.ceil((at + 110 + nameBytes) / 4) * 4;
    found.push({
      name,
      mode,
      major,
      minor,
      data: archive.toString("latin1", dataAt, dataAt + size),
    });
    at = Math.ceil((dataAt + size) / 4) * 4;
  }
}

test("writeNewc() writes what a reader of the format finds", () => {
  const archive = writeNewc(entries);
  assert.equal(archive.length % 512, 0);
  assert.deepEqual(parseNewc(archive), [
    { name: "bin", mode: 0o040755, major: 0, minor: 0, data: "" },
    { name: "bin/a", mode: 0o100755, major: 0, minor: 0, data: "hello" },
    { name: "empty", mode: 0o100600, major: 0, minor: 0, data: "" },
    { name: "link", mode: 0o120777, major: 0, minor: 0, data: "bin/a" },
    { name: "console", mode: 0o020600, major: 5, minor: 1, data: "" },
  ]);
});

test("writeNewc() is read by cpio when it is installed", (t) => {
  if (spawnSync("cpio", ["--version"]).status !== 0) return t.skip("cpio is not installed");
  const listed = execFileSync("cpio", ["-t", "--quiet"], { input: writeNewc(entries) }).toString();
  assert.deepEqual(listed.trim().split("\n"), ["bin", "bin/a", "empty", "link", "console"]);
});

test("writeNewc() gives the same bytes for the same entries", () => {
  assert.deepEqual(writeNewc(entries), writeNewc(entries));
});

test("initramfsInit() is a script the shell can read and that cannot hang", () => {
  const script = initramfsInit(["00-virtio_ring.ko", "01-virtio.ko"]);
  execFileSync("sh", ["-n"], { input: script });
  assert.match(script, /for module in 00-virtio_ring\.ko 01-virtio\.ko;/);
  assert.match(script, /poweroff -f/);
  // The script checks every mount and load.
  const unchecked = script
    .split("\n")
    .filter(
      (line) => /^ *(\/bin\/busybox )?(mount|insmod)\b/.test(line) && !line.includes("|| die"),
    );
  assert.deepEqual(unchecked, []);
});
