import assert from "node:assert/strict";
import { mkdir, mkdtempDisposable, readFile, readdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Deadline } from "@torpor/std";
import { ensureLayer, exists, layerKey, removeStaleStaging, withCacheLock } from "./layers.ts";

const deadline = (): Deadline => Deadline.after(10_000, "test");

test("layerKey() depends on every input and not on their order", () => {
  const key = layerKey({ a: 1, b: ["x", "y"] });
  assert.equal(layerKey({ b: ["x", "y"], a: 1 }), key);
  assert.notEqual(layerKey({ a: 1, b: ["y", "x"] }), key);
  assert.notEqual(layerKey({ a: 2, b: ["x", "y"] }), key);
  assert.match(key, /^[0-9a-f]{16}$/);
});

test("ensureLayer() builds once and finds it again", async () => {
  await using cache = await mkdtempDisposable(join(tmpdir(), "torpor-layers-"));
  let builds = 0;
  const build = async (dir: string): Promise<void> => {
    builds += 1;
    await writeFile(join(dir, "file"), "content");
  };
  const first = await ensureLayer(cache.path, "thing", "0123", build);
  const second = await ensureLayer(cache.path, "thing", "0123", build);
  assert.equal(first, second);
  assert.equal(builds, 1);
  assert.equal(await readFile(join(first, "file"), "utf8"), "content");
});

test("ensureLayer() leaves nothing behind when the build fails", async () => {
  await using cache = await mkdtempDisposable(join(tmpdir(), "torpor-layers-"));
  const failing = ensureLayer(cache.path, "thing", "0123", async (dir) => {
    await writeFile(join(dir, "half"), "made");
    throw new RangeError("no");
  });
  await assert.rejects(failing, RangeError);
  assert.deepEqual(await readdir(join(cache.path, "staging")), []);
  assert.equal(await exists(join(cache.path, "thing-0123")), false);
});

test("removeStaleStaging() removes what a killed builder left", async () => {
  await using cache = await mkdtempDisposable(join(tmpdir(), "torpor-layers-"));
  await mkdir(join(cache.path, "staging", "thing-0123"), { recursive: true });
  await removeStaleStaging(cache.path);
  assert.equal(await exists(join(cache.path, "staging")), false);
});

test("withCacheLock() makes a second builder wait and tells it so", async () => {
  await using cache = await mkdtempDisposable(join(tmpdir(), "torpor-layers-"));
  const events: string[] = [];
  const started = Promise.withResolvers<void>();
  const one = withCacheLock(
    cache.path,
    deadline(),
    () => events.push("one waits"),
    async () => {
      started.resolve();
      await sleep(800);
      events.push("one done");
    },
  );
  await started.promise;
  const two = withCacheLock(
    cache.path,
    deadline(),
    () => events.push("two waits"),
    async () => {
      events.push("two runs");
    },
  );
  await Promise.all([one, two]);
  assert.deepEqual(events, ["two waits", "one done", "two runs"]);
});

test("withCacheLock() gives up at its deadline and frees the lock after a failure", async () => {
  await using cache = await mkdtempDisposable(join(tmpdir(), "torpor-layers-"));
  const quiet = (): void => undefined;
  const held = withCacheLock(cache.path, deadline(), quiet, async () => sleep(600));
  await sleep(200);
  const impatient = withCacheLock(cache.path, Deadline.after(100, "waiting"), quiet, quietly);
  await assert.rejects(impatient, { code: "deadline.exceeded" });
  await held;
  const failing = withCacheLock(cache.path, deadline(), quiet, async () => {
    throw new RangeError("no");
  });
  await assert.rejects(failing, RangeError);
  await withCacheLock(cache.path, deadline(), quiet, quietly);
});

async function quietly(): Promise<void> {
  await Promise.resolve();
}
