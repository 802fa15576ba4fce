import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmod,
  chown,
  link,
  lstat,
  mkdir,
  mkdtempDisposable,
  open,
  readFile,
  readdir,
  readlink,
  symlink,
  utimes,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { readXattrs, writeXattr } from "@torpor/native";
import { systemCode } from "@torpor/std";
import { FileWork } from "./file-work.ts";
import { mountMemory } from "./mount-fixtures.ts";
import { moveTree } from "./tree-move.ts";

const needsRoot = { skip: process.geteuid?.() !== 0 };
const sizeBytes = 16 << 20;

interface Places extends AsyncDisposable {
  /** Two folders on different file systems. */
  readonly here: string;
  readonly there: string;
  readonly undo: AsyncDisposableStack;
}

async function makePlaces(): Promise<Places> {
  await using undo = new AsyncDisposableStack();
  const folder = undo.use(await mkdtempDisposable(join(tmpdir(), "torpor-move-")));
  const [here, there] = [join(folder.path, "here"), join(folder.path, "there")];
  for (const place of [here, there]) {
    await mkdir(place);
    undo.use(mountMemory(place, sizeBytes));
  }
  const held = undo.move();
  return { here, there, undo: held, [Symbol.asyncDispose]: () => held.disposeAsync() };
}

async function makeTree(tree: string): Promise<void> {
  await mkdir(join(tree, "folder", "deep"), { recursive: true });
  const file = join(tree, "folder", "file");
  await writeFile(file, "content");
  await chown(file, 1, 2);
  await chmod(file, 0o4751);
  await link(file, join(tree, "same"));
  await symlink("nowhere", join(tree, "dangling"));
  await symlink("folder/file", join(tree, "link"));
  execFileSync("mkfifo", ["-m", "612", join(tree, "pipe")]);
  execFileSync("mknod", [join(tree, "null"), "c", "1", "3"]);
  execFileSync("sh", ["-c", "touch \"$1/$(printf 'bad\\377')\"", "sh", tree]);
  const sparse = await open(join(tree, "sparse"), "w");
  await sparse.write("begin", 0);
  await sparse.write("end", 1 << 30);
  await sparse.close();
  await chmod(join(tree, "folder", "deep"), 0o1711);
  execFileSync("touch", [
    "-h",
    "-d",
    "1999-12-31 23:59:59.123456789",
    join(tree, "dangling"),
    file,
  ]);
  await utimes(join(tree, "folder"), 1, 2);
}

/** All that a move keeps, by name. */
async function describe(tree: string): Promise<readonly string[]> {
  const lines: string[] = [];
  const inodes = new Map<bigint, string>();
  const walk = async (path: Buffer, name: string): Promise<void> => {
    const stats = await lstat(path, { bigint: true });
    const { mode, uid, gid, rdev, mtimeNs, ino } = stats;
    const isFile = stats.isFile();
    const content = isFile && stats.size < 1 << 20 ? await digest(path) : "";
    const target = stats.isSymbolicLink() ? await readlink(path) : "";
    const first = inodes.get(ino) ?? name;
    inodes.set(ino, first);
    const size = stats.isDirectory() ? 0 : stats.size;
    const attributes = await readXattrs(path, { follow: false, prefix: "user." });
    const kept = attributes.map((xattr) => `${xattr.name.toString()}=${xattr.value.toString()}`);
    lines.push([name, mode, uid, gid, rdev, mtimeNs, size, content, target, first, kept].join(" "));
    if (!stats.isDirectory()) return;
    for (const child of (await readdir(path, { encoding: "buffer" })).sort((a, b) =>
      Buffer.compare(a, b),
    )) {
      await walk(
        Buffer.concat([path, Buffer.from("/"), child]),
        `${name}/${child.toString("latin1")}`,
      );
    }
  };
  await walk(Buffer.from(tree), "");
  return lines;
}

async function digest(path: Buffer): Promise<string> {
  return createHash("sha256")
    .update(await readFile(path))
    .digest("hex");
}

async function codeOf(work: Promise<void>): Promise<unknown> {
  return await work.then(
    () => "moved",
    (cause: unknown) => (cause instanceof Error && "code" in cause ? cause.code : cause),
  );
}

test("A tree that is moved to another file system stays what it is", needsRoot, async () => {
  await using places = await makePlaces();
  const from = join(places.here, "tree");
  const to = join(places.there, "tree");
  await makeTree(from);
  const note = { name: Buffer.from("user.note"), value: Buffer.from("kept") };
  await writeXattr(join(from, "same"), note, true).catch((cause: unknown) => {
    // An older kernel keeps none in memory.
    assert.equal(systemCode(cause), "ENOTSUP");
  });
  const before = await describe(from);
  await moveTree(from, to, new FileWork());
  assert.deepEqual(await describe(to), before);
  const sparse = await lstat(join(to, "sparse"));
  assert.ok(sparse.blocks * 512 < 1 << 20, "the hole is a hole still");
  assert.deepEqual(await readdir(places.here), []);
  assert.deepEqual(await readdir(places.there), ["tree"]);
});

test("A move to another file system replaces what a rename replaces", needsRoot, async () => {
  await using places = await makePlaces();
  const work = new FileWork();
  const from = join(places.here, "from");
  const onto = async (kind: string, to: string): Promise<unknown> => {
    await (kind === "file" ? writeFile(from, "new") : mkdir(from));
    const there = await codeOf(moveTree(from, join(places.there, to), work));
    // The same onto the same things within one file system, by the kernel.
    const here = await codeOf(moveTree(from, join(places.here, to), work));
    if (there !== "moved") assert.equal(here, there, `${kind} onto ${to}`);
    await work.run(async () => execFileSync("rm", ["-rf", from]));
    return there;
  };
  for (const place of [places.here, places.there]) {
    await writeFile(join(place, "file"), "old");
    await mkdir(join(place, "empty"));
    await mkdir(join(place, "full", "x"), { recursive: true });
  }
  assert.equal(await onto("file", "empty"), "EISDIR");
  assert.equal(await onto("folder", "file"), "ENOTDIR");
  assert.equal(await onto("folder", "full"), "ENOTEMPTY");
  assert.equal(await onto("file", "file"), "moved");
  assert.equal(await readFile(join(places.there, "file"), "utf8"), "new");
  assert.equal(await onto("folder", "empty"), "moved");
  assert.deepEqual((await readdir(places.there)).sort(), ["empty", "file", "full"]);
});

test("A move to another file system that fails leaves all as it was", needsRoot, async () => {
  await using places = await makePlaces();
  const { here, there, undo } = places;
  const from = join(here, "tree");
  const to = join(there, "tree");
  await makeTree(from);
  const large = join(from, "zz-large");
  await writeFile(large, Buffer.alloc(12 << 20, 1));
  await writeFile(join(there, "filler"), Buffer.alloc(8 << 20));
  const before = await describe(from);
  const failsWith = async (code: string): Promise<void> => {
    assert.equal(await codeOf(moveTree(from, to, new FileWork())), code);
    assert.deepEqual(await describe(from), before);
    assert.deepEqual(await readdir(here), ["tree"]);
    assert.deepEqual(await readdir(there), ["filler"]);
  };
  await failsWith("ENOSPC");
  await writeFile(join(there, "filler"), "");
  execFileSync("mount", ["-o", "remount,ro", here]);
  await failsWith("EROFS");
  execFileSync("mount", ["-o", "remount,rw", here]);

  const inside = join(from, "folder", "deep");
  undo.use(mountMemory(inside, 1 << 20));
  assert.equal(await codeOf(moveTree(from, to, new FileWork())), "EBUSY");
  assert.deepEqual(await readdir(there), ["filler"]);
  assert.deepEqual(await readdir(here), ["tree"]);
});

test("A client that goes while its move copies leaves all as it was", needsRoot, async () => {
  await using places = await makePlaces();
  const { here, there } = places;
  const from = join(here, "tree");
  await makeTree(from);
  const before = await describe(from);
  const work = new FileWork();
  const moved = codeOf(moveTree(from, join(there, "tree"), work));
  while ((await readdir(there)).length === 0) await new Promise(setImmediate);
  work.leave();
  await moved;
  assert.deepEqual(await describe(from), before);
  assert.deepEqual(await readdir(there), []);
});
