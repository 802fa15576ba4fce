import assert from "node:assert/strict";
import { mkdir, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { EventType, FileType, type WatchDirResponse } from "@torpor/protocol";
import { asUser, startTestAgent } from "./fixtures.ts";
import { mountMemory } from "./mount-fixtures.ts";

const isRoot = process.geteuid?.() === 0;

async function codeOf(work: Promise<unknown>): Promise<Code | undefined> {
  try {
    await work;
    return undefined;
  } catch (error) {
    return ConnectError.from(error).code;
  }
}

test("Stat tells what a file is", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "file");
  await writeFile(path, "12345", { mode: 0o640 });
  const { entry } = await agent.files.stat({ path });
  assert.equal(entry?.name, "file");
  assert.equal(entry.path, path);
  assert.equal(entry.type, FileType.FILE);
  assert.equal(entry.size, 5n);
  assert.equal(entry.mode, 0o640);
  assert.equal(entry.permissions, "-rw-r-----");
  assert.equal(entry.symlinkTarget, undefined);
  const { mtimeMs } = await stat(path);
  assert.equal(Number(entry.modifiedTime?.seconds), Math.floor(mtimeMs / 1000));
  assert.equal(await codeOf(agent.files.stat({ path: join(agent.folder, "no") })), Code.NotFound);
  assert.equal(await codeOf(agent.files.stat({ path: "~other" })), Code.InvalidArgument);
  assert.equal(await codeOf(agent.files.stat({ path: "a\0b" })), Code.InvalidArgument);
  assert.equal((await agent.files.stat({ path: "/tmp" })).entry?.permissions, "dtrwxrwxrwx");
  assert.equal((await agent.files.stat({ path: "/dev/null" })).entry?.type, FileType.UNSPECIFIED);
});

test("Stat tells of a link both its own and its target's", async () => {
  await using agent = await startTestAgent();
  const target = join(agent.folder, "target");
  const link = join(agent.folder, "link");
  const dangling = join(agent.folder, "dangling");
  await mkdir(target, { mode: 0o750 });
  await symlink("target", link);
  await symlink("nowhere", dangling);
  const { entry } = await agent.files.stat({ path: link });
  assert.equal(entry?.type, FileType.DIRECTORY);
  assert.equal(entry.mode, 0o750);
  assert.equal(entry.permissions, "Lrwxrwxrwx");
  assert.equal(entry.symlinkTarget, target);
  const broken = (await agent.files.stat({ path: dangling })).entry;
  assert.equal(broken?.type, FileType.UNSPECIFIED);
  assert.equal(broken.symlinkTarget, dangling);
});

test("MakeDir makes parents that belong to the user", { skip: !isRoot }, async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "a", "b");
  const { entry } = await agent.files.makeDir({ path }, asUser("daemon"));
  assert.equal(entry?.owner, "daemon");
  assert.equal(entry.group, "daemon");
  assert.equal(entry.permissions, "drwxr-xr-x");
  assert.equal((await agent.files.stat({ path: join(path, "..") })).entry?.owner, "daemon");
  assert.equal(await codeOf(agent.files.makeDir({ path })), Code.AlreadyExists);
  await writeFile(join(path, "file"), "");
  const onFile = agent.files.makeDir({ path: join(path, "file") });
  assert.equal(await codeOf(onFile), Code.InvalidArgument);
  const belowFile = agent.files.makeDir({ path: join(path, "file", "x") });
  assert.equal(await codeOf(belowFile), Code.InvalidArgument);
  const unknown = agent.files.makeDir({ path: join(path, "c") }, asUser("nobody-at-all"));
  assert.equal(await codeOf(unknown), Code.Unauthenticated);
});

test("Move makes the destination's parents; Remove is recursive and may be repeated", async () => {
  await using agent = await startTestAgent();
  const source = join(agent.folder, "from");
  const destination = join(agent.folder, "x", "y", "to");
  await mkdir(source);
  await writeFile(join(source, "file"), "1");
  const { entry } = await agent.files.move({ source, destination });
  assert.equal(entry?.path, destination);
  assert.equal(await codeOf(agent.files.move({ source, destination })), Code.NotFound);
  await agent.files.remove({ path: join(agent.folder, "x") });
  await agent.files.remove({ path: join(agent.folder, "x") });
  assert.equal(await codeOf(agent.files.stat({ path: destination })), Code.NotFound);
  assert.equal(await codeOf(agent.files.remove({ path: "/" })), Code.InvalidArgument);
});

test("Move reaches other file systems", { skip: !isRoot }, async () => {
  await using agent = await startTestAgent();
  const disk = join(agent.folder, "disk");
  await mkdir(disk);
  using undo = new DisposableStack();
  undo.use(mountMemory(disk, 1 << 20));
  const source = join(agent.folder, "from");
  await mkdir(source);
  await writeFile(join(source, "file"), "12345");
  const destination = join(disk, "new", "to");
  const { entry } = await agent.files.move({ source, destination });
  assert.equal(entry?.type, FileType.DIRECTORY);
  assert.equal((await agent.files.stat({ path: join(destination, "file") })).entry?.size, 5n);
  assert.equal(await codeOf(agent.files.stat({ path: source })), Code.NotFound);
});

test("ListDir goes as deep as asked, by name, with the prefix that was asked for", async () => {
  await using agent = await startTestAgent();
  const real = join(agent.folder, "real");
  await mkdir(join(real, "b", "deep"), { recursive: true });
  await writeFile(join(real, "a"), "");
  await writeFile(join(real, "c"), "");
  await symlink("b", join(real, "link"));
  const root = join(agent.folder, "root");
  await symlink("real", root);
  const list = async (depth: number): Promise<string[]> => {
    const { entries } = await agent.files.listDir({ path: root, depth });
    return entries.map(({ path }) => path.slice(root.length + 1));
  };
  assert.deepEqual(await list(0), ["a", "b", "c", "link"]);
  assert.deepEqual(await list(2), ["a", "b", "b/deep", "c", "link"]);
  assert.equal(await codeOf(agent.files.listDir({ path: join(root, "a") })), Code.InvalidArgument);
  assert.equal(await codeOf(agent.files.listDir({ path: join(root, "no") })), Code.NotFound);
  await symlink("loop", join(agent.folder, "loop"));
  const loop = agent.files.listDir({ path: join(agent.folder, "loop") });
  assert.equal(await codeOf(loop), Code.FailedPrecondition);
});

test("WatchDir tells what happens in a tree, in folders that come later too", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "watched");
  await mkdir(path);
  const stream = agent.files.watchDir({ path, recursive: true, includeEntry: true });
  const events = stream[Symbol.asyncIterator]() as AsyncIterator<WatchDirResponse, undefined>;
  const first = await events.next();
  assert.equal(first.value?.event.case, "start");
  const until = async (type: EventType, name: string): Promise<string | undefined> => {
    for (;;) {
      const { value } = await events.next();
      assert.equal(value?.event.case, "filesystem");
      const { value: event } = value.event;
      if (event.type === type && event.name === name) return event.entry?.path;
    }
  };
  await writeFile(join(path, "file"), "1");
  assert.equal(await until(EventType.CREATE, "file"), join(path, "file"));
  assert.equal(await until(EventType.WRITE, "file"), join(path, "file"));
  await mkdir(join(path, "a", "b"), { recursive: true });
  await until(EventType.CREATE, "a");
  await until(EventType.CREATE, "a/b");
  await writeFile(join(path, "a", "b", "late"), "1");
  await until(EventType.CREATE, "a/b/late");
  await rename(join(path, "file"), join(path, "moved"));
  assert.equal(await until(EventType.RENAME, "file"), undefined);
  await until(EventType.CREATE, "moved");
  await rm(join(path, "moved"));
  await until(EventType.REMOVE, "moved");
  await events.return?.();
});

test("WatchDir refuses what is not there and what is no folder", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "file");
  await writeFile(path, "");
  const open = async (at: string): Promise<unknown> =>
    await agent.files.watchDir({ path: at })[Symbol.asyncIterator]().next();
  assert.equal(await codeOf(open(path)), Code.InvalidArgument);
  assert.equal(await codeOf(open(join(agent.folder, "no"))), Code.NotFound);
});

test("A polled watcher keeps events until they are fetched, and ends when removed", async () => {
  await using agent = await startTestAgent();
  const { watcherId } = await agent.files.createWatcher({ path: agent.folder });
  assert.match(watcherId, /^w/);
  await writeFile(join(agent.folder, "new"), "");
  let events = (await agent.files.getWatcherEvents({ watcherId })).events;
  while (events.length === 0) {
    events = (await agent.files.getWatcherEvents({ watcherId })).events;
  }
  assert.deepEqual([events[0]?.type, events[0]?.name], [EventType.CREATE, "new"]);
  await agent.files.removeWatcher({ watcherId });
  assert.equal(await codeOf(agent.files.getWatcherEvents({ watcherId })), Code.NotFound);
  assert.equal(await codeOf(agent.files.removeWatcher({ watcherId })), Code.NotFound);
});
