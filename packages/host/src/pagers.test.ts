/** A daemon's pagers, with real page faults: a process stands in for each VM's memory. */
import assert from "node:assert/strict";
import { closeSync, existsSync, openSync } from "node:fs";
import { mkdir, mkdtempDisposable, readdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { tryShareBlocks } from "@torpor/native";
import { PagerProcess, type PagerStatus } from "@torpor/pager";
import { parseJson } from "@torpor/std";
import { type StackedLayer, TemplateStore, templatesFolder } from "@torpor/storage";
import {
  PagedMachine,
  type TestDaemon,
  type TestSandbox,
  makeFakeTemplate,
  soon,
  startTestDaemon,
  waitUntil,
} from "@torpor/testing";
import { type PagerSettings, Pagers } from "./pagers.ts";

const skip = existsSync("/dev/userfaultfd") ? false : "needs /dev/userfaultfd";
const touchedPages = [1, 2, 5, 8, 100, 200];

interface Setting {
  readonly daemon: TestDaemon;
  readonly paged: PagedMachine;
}

/**
 * Runs a daemon whose fake VMs all have pagers, and asserts that their machine saw no forbidden
 * act.
 */
async function withDaemon(work: (setting: Setting) => Promise<void>): Promise<void> {
  await using paged = new PagedMachine(touchedPages);
  await using cache = await mkdtempDisposable(join(tmpdir(), "torpor-pagers-"));
  await makeFakeTemplate(new TemplateStore(templatesFolder(cache.path)), "base");
  {
    await using daemon = await startTestDaemon({
      cacheFolder: cache.path,
      networkKind: "user",
      driver: (pagers) => paged.driver(pagers),
      pager: { use: "always", prefetch: "workingSet" },
    });
    await work({ daemon, paged });
  }
  assert.deepEqual(paged.machine.accusations, []);
}

interface PagerProgress extends Pick<
  PagerStatus,
  "faults" | "presentPages" | "memoryPages" | "prefetchedPages" | "workingSetPages"
> {
  readonly phase: string;
}

interface Info {
  readonly state: string;
  readonly reason: string | null;
  readonly pager: { readonly pid: number; readonly progress: PagerProgress | null } | null;
}

async function infoOf({ api, id }: TestSandbox): Promise<Info> {
  return parseJson((await api.call("GET", `/torpor/sandboxes/${id}`)).text, "info") as Info;
}

/** Writes text that the guest must find again after each wake. */
function write({ machine }: PagedMachine, text: string): void {
  for (const { memory } of machine.processes) memory.writePage(20, text);
}

function read({ machine }: PagedMachine): readonly string[] {
  return machine.processes.map(({ memory }) => memory.readPage(20));
}

/** Settles when the sandbox's requests, and the background work after them, are done. */
async function settled(daemon: TestDaemon, sandbox: TestSandbox): Promise<void> {
  await daemon.live(sandbox).whenIdle();
  await daemon.idle();
}

test("what a guest touches is recorded, and later wakes begin with that", { skip }, async () => {
  await withDaemon(async ({ daemon }) => {
    const first = await daemon.create();
    await settled(daemon, first);
    const cold = (await infoOf(first)).pager?.progress ?? assert.fail();
    assert.deepEqual([cold.workingSetPages, cold.prefetchedPages], [0, 0]);
    assert.ok(cold.faults >= touchedPages.length, `${cold.faults} faults`);
    assert.equal(cold.presentPages, touchedPages.length);
    assert.equal(cold.memoryPages, 256);
    // Wake another sandbox of the template, and the first one again.
    const second = await daemon.create();
    await first.pause();
    assert.equal((await infoOf(first)).pager, null);
    await first.resume();
    for (const sandbox of [first, second]) {
      await settled(daemon, sandbox);
      const warm = await waitUntil("it has its working set", async () => {
        const { progress } = (await infoOf(sandbox)).pager ?? assert.fail();
        return progress?.phase === "done" ? progress : undefined;
      });
      const { length } = touchedPages;
      assert.deepEqual([warm.workingSetPages, warm.presentPages], [length, length]);
    }
  });
});

test("the next daemon adopts pagers, and what they serve was kept for it", { skip }, async () => {
  await withDaemon(async ({ daemon, paged }) => {
    const sandbox = await daemon.create();
    write(paged, "paused");
    await sandbox.pause();
    await sandbox.resume();
    const { snapshotId } = daemon.live(sandbox).record;
    // Enough saves to compact the layers it was loaded from, and then to collect them.
    for (let round = 0; round < 8; round += 1) {
      write(paged, `round ${round}`);
      (await daemon.live(sandbox).checkpoint())[Symbol.dispose]();
      await settled(daemon, sandbox);
    }
    const { pager } = await infoOf(sandbox);
    await daemon.stop();
    await daemon.start();
    assert.equal((await infoOf(sandbox)).state, "running");
    assert.equal((await infoOf(sandbox)).pager?.pid, pager?.pid);
    assert.ok(pager?.progress !== null);
    const served = snapshotId ?? assert.fail();
    assert.ok((await daemon.state.layers()).includes(served), "its pager serves it");
    write(paged, "after the restart");
    await sandbox.pause();
    await settled(daemon, sandbox);
    assert.ok(!(await daemon.state.layers()).includes(served), "nobody needs it any more");
    await sandbox.resume();
    assert.deepEqual(read(paged), ["after the restart"]);
  });
});

test("a sandbox whose pager is killed has failed, and says why", { skip }, async () => {
  await withDaemon(async ({ daemon }) => {
    const sandbox = await daemon.create();
    const { pager } = await infoOf(sandbox);
    process.kill(pager?.pid ?? assert.fail(), "SIGKILL");
    const { reason } = await waitUntil("it has failed", async () => {
      const info = await infoOf(sandbox);
      return info.state === "failed" ? info : undefined;
    });
    assert.match(reason ?? "", /^the VM was ended: its pager failed: the VM's pager was killed/);
  });
});

test(
  "a sandbox whose pager went while no daemon ran has failed, and says why",
  { skip },
  async () => {
    await withDaemon(async ({ daemon }) => {
      const sandbox = await daemon.create();
      const { pager } = await infoOf(sandbox);
      await daemon.stop();
      process.kill(pager?.pid ?? assert.fail(), "SIGKILL");
      await daemon.start();
      const { state, reason } = await infoOf(sandbox);
      assert.equal(state, "failed");
      assert.match(reason ?? "", /^no VM to take over: the VM's pager is gone/);
    });
  },
);

test("a pager that belongs to no VM is ended by the next daemon", { skip }, async () => {
  await withDaemon(async ({ daemon }) => {
    const sandbox = await daemon.create();
    const { folder } = daemon.live(sandbox);
    const { imagePath, sizeBytes } = daemon.run(sandbox).pager?.memory ?? assert.fail();
    await daemon.stop();
    const runFolder = folder.run(99);
    await mkdir(runFolder);
    const stray = await PagerProcess.start(
      {
        runFolder,
        vmSocketPath: join(runFolder, "pager.sock"),
        connectBudgetMs: 60_000,
        memory: { imagePath, layers: [], sizeBytes },
        prefetch: "off",
      },
      soon("starting a pager"),
    );
    await daemon.start();
    assert.equal((await soon("the end of the pager").race(stray.ended)).kind, "failed");
    assert.equal((await infoOf(sandbox)).state, "running");
  });
});

test("a pager that does not answer holds nobody up who asks for it", { skip }, async () => {
  await withDaemon(async ({ daemon }) => {
    const sandbox = await daemon.create();
    const { pager } = await infoOf(sandbox);
    const pid = pager?.pid ?? assert.fail();
    process.kill(pid, "SIGSTOP");
    assert.deepEqual((await infoOf(sandbox)).pager, { pid, progress: null });
    process.kill(pid, "SIGCONT");
  });
});

test("a pager is had where memory would have to be copied, unless told otherwise", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-pagers-"));
  const imagePath = join(folder.path, "image");
  await writeFile(imagePath, Buffer.alloc(4096));
  const none = { begin: undefined, recordPath: undefined };
  const layer = {
    folder: folder.path,
    digest: { mapSha256: "", dataPages: 0, zeroPages: 0, chunkSha256: [] },
  };
  const isHad = (use: PagerSettings["use"], layers: readonly StackedLayer[]): boolean =>
    new Pagers({ use, prefetch: "off" }).starterOf(
      { imagePath, layers, sizeBytes: 4096 },
      none,
      folder.path,
    ) !== undefined;
  assert.equal(isHad("always", []), true);
  assert.equal(isHad("never", [layer]), false);
  assert.equal(isHad("auto", []), false);
  const image = openSync(imagePath, "r");
  const copy = openSync(join(folder.path, "copy"), "w");
  assert.equal(isHad("auto", [layer]), skip === false && !tryShareBlocks(image, copy));
  closeSync(image);
  closeSync(copy);
  assert.deepEqual((await readdir(folder.path)).sort(), ["copy", "image"]);
});
