/** The pager with a real userfaultfd: a process stands in for the VM, its threads for vCPUs. */
import assert from "node:assert/strict";
import { mkdtempDisposable, readdir, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pageBytes } from "@torpor/storage";
import {
  type GuestTask,
  type PagedGuest,
  SavedFixture,
  failsWith,
  shareOf,
  shuffled,
  soon,
  startGuest,
  startPager,
  waitUntil,
} from "@torpor/testing";
import { PagerProcess } from "./pager-process.ts";
import { countPages, readWorkingSet } from "./working-set.ts";

const threads = 4;
const MiB = 1024 * 1024;

async function withFolder(work: (folder: string) => Promise<void>): Promise<void> {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-pager-"));
  await work(folder.path);
}

/** 16 MiB with a hole, and three layers that overlap: all states above all states. */
async function makeLayered(folder: string): Promise<SavedFixture> {
  const saved = await SavedFixture.create(folder, 16 * MiB, [
    { firstPage: 0, endPage: 1500 },
    { firstPage: 2100, endPage: 4096 },
  ]);
  const range = (firstPage: number, endPage: number): { firstPage: number; endPage: number } => ({
    firstPage,
    endPage,
  });
  await saved.addLayer([range(100, 400), range(1400, 1700)], [range(500, 600)]);
  await saved.addLayer([range(300, 350), range(520, 540)], [range(1450, 1600), range(3000, 3100)]);
  await saved.addLayer([range(1500, 1510), range(4095, 4096)], [range(120, 121), range(310, 320)]);
  return saved;
}

/** Each thread reads its share of all pages and compares each page. */
function touchAll(saved: SavedFixture, order: "sequential" | "random"): readonly GuestTask[] {
  return Array.from({ length: threads }, (_none, index) => {
    const share = shareOf(saved.pageCount, index, threads);
    const { truthPath } = saved;
    if (order === "sequential") return { kind: "touch", pages: share, truthPath };
    const pages = Array.from(
      { length: share.endPage - share.firstPage },
      (_page, offset) => share.firstPage + offset,
    );
    return { kind: "touch", pages: shuffled(pages, index + 1), truthPath };
  });
}

async function assertTrue(guest: PagedGuest, tasks: readonly GuestTask[]): Promise<void> {
  const results = await guest.run(tasks, soon("touching memory"));
  assert.deepEqual(
    results.flatMap(({ wrongPages }) => wrongPages),
    [],
  );
}

async function assertVmEnded(pager: PagerProcess, guest: PagedGuest): Promise<void> {
  await guest.waitForEnd(soon("the end of the VM"));
  assert.deepEqual(await soon("the end of the pager").race(pager.ended), { kind: "vmEnded" });
}

async function prefetched(pager: PagerProcess): Promise<void> {
  await waitUntil("all is prefetched", async () => {
    const { prefetchPhase } = await pager.status(soon("the status"));
    return prefetchPhase === "done" ? true : undefined;
  });
}

for (const order of ["sequential", "random"] as const) {
  test(`every page comes from the newest layer that names it, touched in ${order} order by 4 threads`, async () => {
    await withFolder(async (folder) => {
      const saved = await makeLayered(folder);
      await using pager = await startPager(saved);
      await using guest = await startGuest(saved);
      await assertTrue(guest, touchAll(saved, order));
      const status = await pager.status(soon("the status"));
      assert.equal(status.copiedPages + status.zeroPages, saved.pageCount);
      assert.ok(status.faults >= saved.pageCount, `${status.faults} faults`);
      guest.end();
      await assertVmEnded(pager, guest);
      assert.deepEqual(
        (await readdir(folder)).filter((name) => /sock|line/.test(name)),
        [],
      );
    });
  });
}

test("several threads that wait for the same page all get it", async () => {
  await withFolder(async (folder) => {
    const saved = await makeLayered(folder);
    await using pager = await startPager(saved);
    await using guest = await startGuest(saved);
    const all = { firstPage: 0, endPage: saved.pageCount };
    const task = { kind: "touch", pages: all, truthPath: saved.truthPath } as const;
    await assertTrue(
      guest,
      Array.from({ length: threads }, () => task),
    );
    const { copiedPages, zeroPages } = await pager.status(soon("the status"));
    assert.equal(copiedPages + zeroPages, saved.pageCount);
  });
});

test("a range that was given back is zeros from then on, in a storm of 4 threads with prefetch", async () => {
  await withFolder(async (folder) => {
    const saved = await makeLayered(folder);
    await using pager = await startPager(saved, { prefetch: "all" });
    await using guest = await startGuest(saved);
    const tasks = Array.from({ length: threads }, (_none, index) => ({
      kind: "storm" as const,
      ...shareOf(saved.pageCount, index, threads),
      rounds: 400,
      seed: index + 1,
      truthPath: saved.truthPath,
    }));
    await assertTrue(guest, tasks);
    const { removedPages } = await pager.status(soon("the status"));
    assert.ok(removedPages > 1000, `${removedPages} pages were given back`);
  });
});

test("a guest of 4 GiB in two regions, 3 GiB of it a hole, takes the memory of what it touches", async () => {
  await withFolder(async (folder) => {
    const content = [
      { firstPage: 0, endPage: 2048 },
      { firstPage: 786_432 - 512, endPage: 786_432 + 512 },
      { firstPage: 1_048_576 - 2048, endPage: 1_048_576 },
    ];
    const saved = await SavedFixture.create(folder, 4096 * MiB, content);
    await using pager = await startPager(saved, { prefetch: "all" });
    await using guest = await startGuest(saved, { regionBytes: [3072 * MiB, 1024 * MiB] });
    const holePages = Array.from({ length: 512 }, (_none, index) => 4096 + index * 1500);
    await assertTrue(
      guest,
      [...content.map((pages) => ({ pages })), { pages: shuffled(holePages, 1) }].map(
        ({ pages }) => ({ kind: "touch", pages, truthPath: saved.truthPath }) as const,
      ),
    );
    await prefetched(pager);
    const taken = await guest.ownPages();
    assert.ok(taken <= 5120, `${taken} pages for 5120 of content`);
  });
});

test("the message may come in parts, and who connects without a word is not the VM", async () => {
  await withFolder(async (folder) => {
    const saved = await makeLayered(folder);
    await using pager = await startPager(saved);
    const silent = await startGuest(saved, { message: "" });
    await silent[Symbol.asyncDispose]();
    assert.equal((await pager.status(soon("the status"))).state, "listening");
    await using guest = await startGuest(saved, {
      messageParts: 3,
      regionBytes: [12 * MiB, 4 * MiB],
    });
    await assertTrue(guest, touchAll(saved, "sequential"));
  });
});

for (const [what, message] of [
  ["that is no memory", "[]"],
  ["of memory beyond what was saved", region({ size: 32 * MiB })],
  ["of huge pages", region({ page_size: 2 * MiB })],
  ["of half a page", region({ size: 2048 })],
] as const) {
  test(`a message ${what} is refused, and the VM ended`, async () => {
    await withFolder(async (folder) => {
      const saved = await makeLayered(folder);
      const pager = await startPager(saved);
      const guest = await startGuest(saved, { message }).catch(() => undefined);
      const end = await soon("the end of the pager").race(pager.ended);
      assert.equal(end.kind, "failed");
      await guest?.waitForEnd(soon("the end of the VM"));
    });
  });
}

function region(wrong: Readonly<Record<string, number>>): string {
  const right = { base_host_virt_addr: 2 ** 40, size: MiB, offset: 0, page_size: pageBytes };
  return JSON.stringify([{ ...right, ...wrong }]);
}

test("a pager that is killed is missed at once, and its VM can be ended while it stands still", async () => {
  await withFolder(async (folder) => {
    const saved = await makeLayered(folder);
    const pager = await startPager(saved);
    await using guest = await startGuest(saved);
    await assertTrue(guest, touchAll(saved, "sequential").slice(0, 1));
    process.kill(pager.pid, "SIGKILL");
    const end = await soon("the end of the pager").race(pager.ended);
    assert.equal(end.kind, "failed");
    const stuck = guest.run(touchAll(saved, "sequential").slice(1), soon("the end of the VM"));
    guest.end();
    await assert.rejects(stuck);
    await guest.waitForEnd(soon("the end of the VM"));
  });
});

test("a VM that is ended ends its pager, and a pager that is ended its VM", async () => {
  await withFolder(async (folder) => {
    const saved = await makeLayered(folder);
    const pager = await startPager(saved);
    await using guest = await startGuest(saved);
    guest.end();
    await assertVmEnded(pager, guest);
    const another = await startPager(saved);
    await using other = await startGuest(saved);
    await another.end(soon("ending a pager"));
    await assertVmEnded(another, other);
    const unused = await startPager(saved);
    await unused.end(soon("ending a pager that no VM came to"));
  });
});

test("the next daemon adopts a pager, and finds none where it is gone", async () => {
  await withFolder(async (folder) => {
    const saved = await makeLayered(folder);
    const first = await startPager(saved);
    await using guest = await startGuest(saved);
    first.release();
    const second = await PagerProcess.adopt(folder, soon("adopting"));
    await assertTrue(guest, touchAll(saved, "random"));
    assert.equal((await second.status(soon("the status"))).vmPid, guest.pid);
    await second.end(soon("ending a pager"));
    const gone = PagerProcess.adopt(folder, soon("adopting"));
    await assert.rejects(gone, failsWith("vmm.failed"));
  });
});

test("files that are cut short or damaged are refused at the start", async () => {
  for (const damage of ["image", "layer-0/memory.pages", "layer-1/memory.map"]) {
    await withFolder(async (folder) => {
      const saved = await makeLayered(folder);
      await truncate(join(folder, damage), 8 * pageBytes - 4);
      await assert.rejects(startPager(saved), failsWith("snapshot.corrupt"), damage);
    });
  }
});

test("files that are cut short or damaged later end the VM, and no wrong page comes out of them", async () => {
  for (const [file, damage] of [
    ["image", (path: string) => truncate(path, 0)],
    ["layer-0/memory.pages", (path: string) => writeFile(path, Buffer.alloc(600 * pageBytes))],
    ["layer-0/memory.pages", (path: string) => truncate(path, 0)],
  ] as const) {
    await withFolder(async (folder) => {
      const saved = await makeLayered(folder);
      const pager = await startPager(saved);
      await using guest = await startGuest(saved);
      await damage(join(folder, file));
      await assert.rejects(guest.run(touchAll(saved, "random"), soon("the end of the VM")));
      const end = await soon("the end of the pager").race(pager.ended);
      assert.ok(end.kind === "failed", file);
      assert.equal(end.error.code, "snapshot.corrupt", end.error.message);
    });
  }
});

test("what a wake touched is recorded, and the next wake has it before it asks, and no more than that", async () => {
  await withFolder(async (folder) => {
    const saved = await makeLayered(folder);
    const recordPath = join(folder, "working-set");
    const pages = shuffled(
      Array.from({ length: 1000 }, (_none, index) => 64 + index * 4),
      3,
    );
    const touch = [{ kind: "touch", pages, truthPath: saved.truthPath } as const];
    {
      await using pager = await startPager(saved, { prefetch: "all", recordPath });
      await using guest = await startGuest(saved);
      await assertTrue(guest, touch);
      const status = await pager.saveWorkingSet(soon("recording"));
      assert.equal(status.recordedPages, 1000);
      assert.equal(status.prefetchedPages, 0);
    }
    assert.equal(countPages(readWorkingSet(recordPath, saved.sizeBytes)), 1000);
    await using pager = await startPager(saved, {
      prefetch: "workingSet",
      workingSetPath: recordPath,
    });
    await using guest = await startGuest(saved);
    await prefetched(pager);
    await assertTrue(guest, touch);
    const status = await pager.status(soon("the status"));
    assert.deepEqual([status.faults, status.prefetchedPages], [0, 1000]);
    assert.equal(status.workingSetPages, 1000);
  });
});

test("a damaged record of the working set costs a remark and nothing else", async () => {
  await withFolder(async (folder) => {
    const saved = await makeLayered(folder);
    const workingSetPath = join(folder, "working-set");
    await writeFile(workingSetPath, "not a working set");
    await using pager = await startPager(saved, { prefetch: "all", workingSetPath });
    await using guest = await startGuest(saved);
    await assertTrue(guest, touchAll(saved, "random"));
    assert.match((await pager.status(soon("the status"))).remark, /is of another format/);
  });
});
