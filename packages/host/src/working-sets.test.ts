import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { encodeWorkingSet, workingSetOf } from "@torpor/pager";
import { silentLogger } from "@torpor/std";
import { SandboxFolder, pageBytes, stateFiles } from "@torpor/storage";
import { type Waking, WorkingSets } from "./working-sets.ts";

const templateId = "template000000000000";
const snapshotId = "snapshot000000000000";
const memoryPages = 64;

interface Fixture extends AsyncDisposable {
  readonly sets: WorkingSets;
  readonly folder: string;
  /** A sandbox of the template that is about to wake. */
  sandbox(id: string, change?: Partial<Waking>): Promise<Waking>;
  readonly pathOf: (id: string) => string;
}

async function open(): Promise<Fixture> {
  const state = await mkdtemp(join(tmpdir(), "torpor-test-"));
  const sets = await WorkingSets.open(state, silentLogger);
  const folder = join(state, stateFiles.workingSets);
  return {
    sets,
    folder,
    pathOf: (id) => join(folder, id),
    sandbox: async (id, change) => {
      const own = new SandboxFolder(state, id);
      await mkdir(own.path, { recursive: true });
      const sizeBytes = memoryPages * pageBytes;
      return { folder: own, templateId, snapshotId: null, isNew: true, sizeBytes, ...change };
    },
    [Symbol.asyncDispose]: () => rm(state, { recursive: true }),
  };
}

/** Writes a record of one page. */
async function record(path: string, page: number, pages = memoryPages): Promise<void> {
  await writeFile(
    path,
    encodeWorkingSet(workingSetOf(new Uint8Array(pages).fill(1, page, page + 1))),
  );
}

/** The page in the record that a wake starts from. */
async function beginsWith(sets: WorkingSets, waking: Waking): Promise<number | undefined> {
  const { begin } = await sets.plan(waking);
  return begin?.workingSet.ranges[0]?.firstPage;
}

test("a wake begins with its sandbox's record, else its snapshot's, else its template's", async () => {
  await using fixture = await open();
  const { sets, pathOf } = fixture;
  const waking = await fixture.sandbox("it", { snapshotId });
  assert.equal(await beginsWith(sets, waking), undefined);
  await record(pathOf(templateId), 1);
  assert.equal(await beginsWith(sets, waking), 1);
  await record(pathOf(snapshotId), 2);
  assert.equal(await beginsWith(sets, waking), 2);
  await record(waking.folder.workingSet, 3);
  assert.equal(await beginsWith(sets, waking), 3);
});

test("the first wake from a source leaves its record to all that come after it", async () => {
  await using fixture = await open();
  const { sets, pathOf } = fixture;
  for (const source of [null, snapshotId]) {
    const first = await fixture.sandbox(`first of ${source ?? "template"}`, { snapshotId: source });
    const plan = await sets.plan(first);
    assert.equal(plan.recordPath, first.folder.workingSet);
    await record(first.folder.workingSet, 4);
    await sets.share(plan);
    const second = await fixture.sandbox(`second of ${source ?? "template"}`, {
      snapshotId: source,
    });
    const { begin, recordPath } = await sets.plan(second);
    assert.deepEqual(begin?.workingSet.ranges, [{ firstPage: 4, endPage: 5 }]);
    assert.equal(recordPath, undefined, "one is enough");
    assert.equal(begin.path, pathOf(source ?? templateId));
  }
});

test("of two that wake at once from a source the first to be done leaves its record", async () => {
  await using fixture = await open();
  const { sets } = fixture;
  const one = await fixture.sandbox("one");
  const other = await fixture.sandbox("other");
  const plans = [await sets.plan(one), await sets.plan(other)] as const;
  await record(one.folder.workingSet, 5);
  await record(other.folder.workingSet, 6);
  await sets.share(plans[1]);
  await sets.share(plans[0]);
  assert.equal(await beginsWith(sets, await fixture.sandbox("third")), 6);
});

test("a resume records its own each time, and leaves its source's alone", async () => {
  await using fixture = await open();
  const { sets, pathOf } = fixture;
  await record(pathOf(templateId), 1);
  const waking = await fixture.sandbox("it", { snapshotId, isNew: false });
  const plan = await sets.plan(waking);
  assert.equal(plan.recordPath, waking.folder.workingSet);
  await record(waking.folder.workingSet, 7);
  await sets.share(plan);
  assert.deepEqual(await readdir(fixture.folder), [templateId]);
  assert.equal((await sets.plan(waking)).recordPath, waking.folder.workingSet);
});

test("a record that is damaged, or of another size, is done without and made anew", async () => {
  await using fixture = await open();
  const { sets, pathOf } = fixture;
  const waking = await fixture.sandbox("it");
  const path = pathOf(templateId);
  const spoilers = [
    async () => await writeFile(path, (await readFile(path)).subarray(0, -1)),
    async () => await writeFile(path, ""),
    async () => await record(path, 1, 2 * memoryPages),
    async () => await mkdir(path),
  ];
  for (const spoil of spoilers) {
    await record(path, 1);
    if (spoil === spoilers.at(-1)) await rm(path);
    await spoil();
    const plan = await sets.plan(waking);
    assert.equal(plan.begin, undefined);
    await record(waking.folder.workingSet, 8);
    await sets.share(plan);
    assert.equal(await beginsWith(sets, await fixture.sandbox("next")), 8);
    await rm(waking.folder.workingSet);
    await rm(path);
  }
});

test("sweep() leaves the records of what is needed, and nothing else", async () => {
  await using fixture = await open();
  const { sets, pathOf } = fixture;
  for (const name of [templateId, snapshotId, "gone", "half-written.new"]) {
    await record(pathOf(name), 1);
  }
  const needed = [templateId, snapshotId];
  await sets.sweep(async (ids) => ids.map((id) => needed.includes(id)));
  assert.deepEqual((await readdir(fixture.folder)).toSorted(), [snapshotId, templateId]);
  await sets.remove([snapshotId, "never was"]);
  assert.deepEqual(await readdir(fixture.folder), [templateId]);
});
