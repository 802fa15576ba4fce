import assert from "node:assert/strict";
import { closeSync, readSync } from "node:fs";
import { mkdtempDisposable, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { addInotifyWatch, inotify, openInotify, parseInotify } from "./inotify.ts";

test("parseInotify() reads what the kernel wrote, and keeps a split event for later", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-inotify-"));
  const fd = openInotify();
  const watch = await addInotifyWatch(fd, folder.path, inotify.create);
  await writeFile(join(folder.path, "ä"), "");
  const bytes = Buffer.alloc(4096);
  const whole = bytes.subarray(0, readSync(fd, bytes));
  closeSync(fd);
  const event = { watch, mask: inotify.create, name: Buffer.from("ä") };
  assert.deepEqual(parseInotify(whole), { events: [event], rest: Buffer.alloc(0) });
  const cut = parseInotify(whole.subarray(0, 20));
  assert.deepEqual(cut.events, []);
  assert.deepEqual(parseInotify(Buffer.concat([cut.rest, whole.subarray(20)])).events, [event]);
});

test("addInotifyWatch() takes a path in bytes and throws a system error", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-inotify-"));
  const fd = openInotify();
  try {
    const path = Buffer.from(folder.path);
    const watch = await addInotifyWatch(fd, folder.path, inotify.create);
    assert.equal(await addInotifyWatch(fd, path, inotify.create), watch);
    const missing = Buffer.concat([path, Buffer.of(0x2f, 0xff)]);
    await assert.rejects(addInotifyWatch(fd, missing, inotify.create), { code: "ENOENT" });
  } finally {
    closeSync(fd);
  }
});
