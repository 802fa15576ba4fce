/**
 * Records of what guests use of their memory: the first sandbox of a template leaves one for those that
 * come after it, each sleeper has its own, and a wake does without what is damaged. None outlives what
 * it was made for.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { countPages, readWorkingSet } from "@torpor/pager";
import { type TestDaemon, type TestSandbox, startTestDaemon } from "@torpor/testing";

interface Record {
  readonly path: string;
  /** Undefined while there is none. */
  readonly pages: number | undefined;
}

/** Of the sandbox itself, once what its last wake has to write is written. */
async function ownRecord(daemon: TestDaemon, sandbox: TestSandbox): Promise<Record> {
  const live = daemon.live(sandbox);
  await live.whenIdle();
  const path = live.folder.workingSet;
  if (!existsSync(path)) return { path, pages: undefined };
  const { sizeBytes } = daemon.run(sandbox).vm.memory;
  return { path, pages: countPages(readWorkingSet(path, sizeBytes)) };
}

function beganWith(daemon: TestDaemon, sandbox: TestSandbox): number | undefined {
  return daemon.run(sandbox).workingSetPages;
}

test("records of what a waking guest uses", async (t) => {
  await using daemon = await startTestDaemon();
  const first = await daemon.create();
  const { templateId } = daemon.live(first).record;
  const ofTemplate = (await ownRecord(daemon, first)).pages;

  await t.test("the first sandbox of a template leaves one for all others", async () => {
    assert.equal(beganWith(daemon, first), undefined);
    assert.ok(ofTemplate !== undefined && ofTemplate > 0);
    assert.deepEqual(await daemon.state.workingSets(), [templateId]);
  });

  const second = await daemon.create();
  await t.test(
    "one that is made after it begins with that, and makes none of its own",
    async () => {
      assert.equal(beganWith(daemon, second), ofTemplate);
      assert.equal((await ownRecord(daemon, second)).pages, undefined);
    },
  );

  await t.test(
    "a resume begins with the template's record once, and then with its own",
    async () => {
      await second.pause();
      await second.resume();
      assert.equal(beganWith(daemon, second), ofTemplate);
      const { pages } = await ownRecord(daemon, second);
      assert.ok(pages !== undefined && pages > 0);
      await second.pause();
      await second.resume();
      assert.equal(beganWith(daemon, second), pages);
    },
  );

  await t.test("a damaged one is done without, and made anew", async () => {
    const { path } = await ownRecord(daemon, second);
    await second.pause();
    await writeFile(path, (await readFile(path)).subarray(0, -1));
    await second.resume();
    assert.equal(beganWith(daemon, second), ofTemplate);
    assert.equal(await second.shell("echo awake"), "awake");
    assert.ok(((await ownRecord(daemon, second)).pages ?? 0) > 0);
  });

  await t.test("one of a snapshot goes with the snapshot", async () => {
    const snapshotId = await first.snapshot("ready");
    const made = await daemon.create("ready");
    assert.equal(beganWith(daemon, made), ofTemplate);
    const { pages } = await ownRecord(daemon, made);
    const ids = [snapshotId, templateId].toSorted();
    assert.deepEqual(await daemon.state.workingSets(), ids);
    const next = await daemon.create("ready");
    assert.equal(beganWith(daemon, next), pages);
    await made.remove();
    await next.remove();
    assert.deepEqual(await daemon.state.workingSets(), ids);
    await daemon.api.call("DELETE", "/templates/ready");
    await first.remove(); // it was the newest of this one, too
    await daemon.idle();
    assert.deepEqual(await daemon.state.workingSets(), [templateId]);
  });

  await t.test("one of a sandbox goes with the sandbox, and a template's stays", async () => {
    const { path } = await ownRecord(daemon, second);
    assert.ok(existsSync(path));
    await second.remove();
    assert.ok(!existsSync(path));
    assert.deepEqual(await daemon.state.workingSets(), [templateId]);
  });
});
