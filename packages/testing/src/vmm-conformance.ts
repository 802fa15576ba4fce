/**
 * The requirements on every driver of a VMM, as one list of tests that all of them pass.
 *
 * A rig brings the driver, a template that was made with it, and a way to have the guest remember
 * something, in memory and on disk. All else uses the interface alone, with the storage package's
 * own layers, so that a save of one driver is a save of any.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { copyFile, mkdir, readdir, stat, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { NewGuestNetwork } from "@torpor/network";
import { Deadline } from "@torpor/std";
import {
  type MemoryLayerDigest,
  MemoryStack,
  type StackedLayer,
  createOverlay,
  foldDiskLayers,
} from "@torpor/storage";
import type { DiskLayer, MachineShape, StartPager, Vm, VmmDriver } from "@torpor/vmm";

const pageBytes = 4096;
const budgetMs = 60_000;

/** A VM and its network. */
export interface ConformanceRun {
  readonly vm: Vm;
  readonly network: NewGuestNetwork;
}

/** The texts that the guest remembers. */
export interface Remembered {
  readonly memory: string;
  readonly disk: string;
}

/** One driver with everything its tests need. */
export interface ConformanceRig {
  readonly driver: VmmDriver;
  readonly machine: MachineShape;
  readonly imagePath: string;
  readonly deviceStatePath: string;
  readonly disk: DiskLayer;
  readonly diskBytes: number;
  /** LIMIT: pages that the VMM itself writes when it loads, such as the guest's new generation. */
  readonly pagesRenewedMax: number;
  /** An empty folder; the rig removes it. */
  readonly folder: string;
  /**
   * How to start the pager of a VM, for a rig whose VMs load their memory from one, unless it was
   * saved whole.
   */
  readonly pagerOf?: (layers: readonly StackedLayer[], runFolder: string) => StartPager | undefined;
  network(): Promise<NewGuestNetwork>;
  remember(run: ConformanceRun, text: string): Promise<void>;
  recall(run: ConformanceRun): Promise<Remembered>;
}

/** A saved VM, from which a later one continues. */
interface Saved {
  readonly deviceStatePath: string;
  readonly layers: readonly StackedLayer[];
  readonly disk: readonly DiskLayer[];
  /** SHA-256 of each page. */
  readonly pages: readonly string[];
  /** Whether memory lies with the device state. */
  readonly isWhole?: boolean;
}

/** Runs all tests on one rig, as subtests of `t`. */
export async function testConformance(t: TestContext, rig: ConformanceRig): Promise<void> {
  const suite = new Suite(rig);
  await t.test("a restored VM stands still until its vCPUs are released", () =>
    suite.standsStill(),
  );
  await t.test("a saved VM wakes with every byte of memory and disk, cycle after cycle", () =>
    suite.wakesAsSaved(),
  );
  await t.test("a VM that is saved goes on, on a new disk layer, and can be saved again", () =>
    suite.goesOn(),
  );
  await t.test("a disk is put upon fewer layers while the guest runs, and stays the same", () =>
    suite.replacesLayers(),
  );
  await t.test("layers that cannot be read leave a running disk as it is", () =>
    suite.keepsItsLayers(),
  );
  await t.test("a VM that is saved whole wakes from one file", () => suite.savesWhole());
  await t.test("a VM is reached again by another driver, and not after its end", () =>
    suite.isAdopted(),
  );
  await t.test("the end of a VM is noticed, whoever ended it", () => suite.noticesTheEnd());
  await t.test("device state that is damaged is refused", () => suite.refusesDamage());
  await t.test("the template's image is as it was", () => suite.keepsTheImage());
}

class Suite {
  readonly #rig: ConformanceRig;
  readonly #imageBefore: Promise<string>;
  /** The layers of each VM above the template's disk. */
  readonly #disks = new Map<Vm, readonly DiskLayer[]>();
  #made = 0;

  constructor(rig: ConformanceRig) {
    this.#rig = rig;
    this.#imageBefore = likeness(rig.imagePath);
  }

  async standsStill(): Promise<void> {
    await using undo = new AsyncDisposableStack();
    const run = await this.#wake(undo, undefined);
    await run.vm.releaseVcpus(deadline());
    await this.#rig.remember(run, "first");
    assert.deepEqual(await this.#rig.recall(run), { memory: "first", disk: "first" });
    await run.vm.holdVcpus(deadline());
    await run.vm.holdVcpus(deadline()); // safe to repeat
    const before = await this.#look(run.vm);
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.deepEqual(await this.#look(run.vm), before, "nothing runs while the vCPUs are held");
    await run.vm.releaseVcpus(deadline());
    await run.vm.releaseVcpus(deadline());
    assert.equal((await this.#rig.recall(run)).memory, "first");
    assert.ok(run.vm.memory.estimateOwnBytes() > 0);
    assert.equal(await run.vm.isStalled(deadline()), false);
    assert.ok(run.vm.commandLine().length > 1);
    assert.equal(run.vm.version, (await this.#rig.driver.identity()).version);
  }

  async wakesAsSaved(): Promise<void> {
    let saved: Saved | undefined;
    for (const text of ["one", "two", "three"]) {
      await using undo = new AsyncDisposableStack();
      const run = await this.#wake(undo, saved);
      if (saved !== undefined) await this.#assertWoken(run.vm, saved);
      await run.vm.releaseVcpus(deadline());
      if (saved !== undefined) {
        const expected = text === "two" ? "one" : "two";
        assert.deepEqual(await this.#rig.recall(run), { memory: expected, disk: expected });
      }
      await this.#rig.remember(run, text);
      await run.vm.holdVcpus(deadline());
      const below = saved;
      saved = await this.#save(run.vm, below);
      // Relative to the image alone it is everything that ever changed.
      if (text === "three") await this.#assertSleeps(await this.#save(run.vm, undefined));
    }
    const pageCount = this.#rig.machine.memoryMiB * 256;
    const stored = saved?.layers.at(-1)?.digest.dataPages ?? pageCount;
    assert.ok(stored < pageCount / 2, `a save has what changed: ${stored} of ${pageCount} pages`);
  }

  /** Asserts that a save can be woken. */
  async #assertSleeps(saved: Saved): Promise<void> {
    await using undo = new AsyncDisposableStack();
    const disk = await Promise.all(saved.disk.map((layer) => this.#copyLayer(layer)));
    const run = await this.#wake(undo, { ...saved, disk });
    await this.#assertWoken(run.vm, saved);
    await run.vm.releaseVcpus(deadline());
    assert.deepEqual(await this.#rig.recall(run), { memory: "three", disk: "three" });
  }

  async goesOn(): Promise<void> {
    const first: { saved?: Saved } = {};
    const second: { saved?: Saved } = {};
    {
      await using undo = new AsyncDisposableStack();
      const run = await this.#wake(undo, undefined);
      const { vm } = run;
      await vm.releaseVcpus(deadline());
      await this.#rig.remember(run, "before");
      const unused = await this.#newLayer();
      await vm.openDiskLayer(unused, deadline());
      await vm.closeDiskLayer(unused, deadline());
      await vm.closeDiskLayer(unused, deadline());
      const layer = await this.#newLayer();
      await vm.openDiskLayer(layer, deadline());
      await vm.holdVcpus(deadline());
      await vm.flushDisk(deadline());
      await vm.addDiskLayer(layer, deadline());
      await vm.addDiskLayer(layer, deadline());
      first.saved = await this.#save(vm, undefined);
      const disk = [...first.saved.disk];
      await vm.releaseVcpus(deadline());
      await this.#rig.remember(run, "after");
      await vm.holdVcpus(deadline());
      // Relative to the same image, not to the first save: the changed pages must contain both.
      second.saved = { ...(await this.#save(vm, undefined)), disk: [...disk, layer] };
    }
    for (const [text, { saved }] of [
      ["before", first],
      ["after", second],
    ] as const) {
      await using undo = new AsyncDisposableStack();
      const run = await this.#wake(undo, saved);
      if (saved !== undefined) await this.#assertWoken(run.vm, saved);
      await run.vm.releaseVcpus(deadline());
      assert.deepEqual(await this.#rig.recall(run), { memory: text, disk: text });
    }
  }

  async replacesLayers(): Promise<void> {
    await using undo = new AsyncDisposableStack();
    const asleep = await this.#sleeping("one");
    const run = await this.#wake(undo, asleep);
    const { vm } = run;
    await vm.releaseVcpus(deadline());
    await this.#goOnUpon(vm);
    await this.#goOnUpon(vm);
    // Below a layer that is sealed, like those of later checkpoints.
    await removeAll(await this.#foldOldest(vm, 2));
    assert.deepEqual(await this.#rig.recall(run), { memory: "one", disk: "one" });
    await this.#rig.remember(run, "two");
    // Below the layer that the guest writes to.
    await removeAll(await this.#foldOldest(vm, 2));
    assert.deepEqual(await this.#rig.recall(run), { memory: "two", disk: "two" });
    await vm.holdVcpus(deadline());
    const first = await this.#save(vm, undefined);
    await this.#goOnUpon(vm);
    await vm.releaseVcpus(deadline());
    await this.#rig.remember(run, "three");
    await this.#foldOldest(vm, 2);
    await vm.holdVcpus(deadline());
    const second = await this.#save(vm, undefined);
    await vm.end(deadline());
    for (const [text, saved] of [
      ["two", first],
      ["three", second],
    ] as const) {
      await using over = new AsyncDisposableStack();
      const next = await this.#wake(over, saved);
      await this.#assertWoken(next.vm, saved);
      await next.vm.releaseVcpus(deadline());
      assert.deepEqual(await this.#rig.recall(next), { memory: text, disk: text });
    }
  }

  async keepsItsLayers(): Promise<void> {
    await using undo = new AsyncDisposableStack();
    const run = await this.#wake(undo, await this.#sleeping("kept"));
    const { vm } = run;
    await vm.releaseVcpus(deadline());
    const layers = this.#layersOf(vm);
    const [oldest, above] = layers;
    assert.ok(oldest !== undefined && above !== undefined);
    const damaged: DiskLayer = { path: `${this.#newPath("disk")}.qcow2`, format: "qcow2" };
    await writeFile(damaged.path, Buffer.alloc(1 << 20, "no layer"));
    const elsewhere = await this.#newLayer();
    for (const replacement of [
      { above, below: [damaged], replaced: [oldest] },
      { above, below: [elsewhere, damaged], replaced: [oldest] },
      { above: elsewhere, below: [], replaced: [] },
    ]) {
      await assert.rejects(vm.replaceDiskLayers(replacement, deadline()), { code: "vmm.failed" });
      assert.deepEqual(await this.#rig.recall(run), { memory: "kept", disk: "kept" });
      assert.ok(await isOpen(oldest.path));
      for (const { path } of [damaged, elsewhere]) assert.ok(!(await isOpen(path)), path);
    }
    await removeAll(await this.#foldOldest(vm, 1));
    assert.deepEqual(await this.#rig.recall(run), { memory: "kept", disk: "kept" });
  }

  /** A guest that remembers `text`, and was then saved and ended. */
  async #sleeping(text: string): Promise<Saved> {
    await using undo = new AsyncDisposableStack();
    const run = await this.#wake(undo, undefined);
    await run.vm.releaseVcpus(deadline());
    await this.#rig.remember(run, text);
    await run.vm.holdVcpus(deadline());
    return await this.#save(run.vm, undefined);
  }

  /** Seals the top layer of a VM, which may run, and puts a new one above it. */
  async #goOnUpon(vm: Vm): Promise<void> {
    const layer = await this.#newLayer();
    await vm.openDiskLayer(layer, deadline());
    await vm.flushDisk(deadline());
    await vm.addDiskLayer(layer, deadline());
    this.#disks.set(vm, [...this.#layersOf(vm), layer]);
  }

  /**
   * Folds layers like the daemon, as often as it may have to. @returns files that the VM no longer
   * needs
   */
  async #foldOldest(vm: Vm, count: number): Promise<readonly string[]> {
    const layers = this.#layersOf(vm);
    const [replaced, rest] = [layers.slice(0, count), layers.slice(count)];
    const [above] = rest;
    assert.ok(above !== undefined);
    const folded: DiskLayer = { path: `${this.#newPath("disk")}.qcow2`, format: "qcow2" };
    const paths = replaced.map(({ path }) => path);
    await foldDiskLayers(paths, folded.path, this.#rig.diskBytes);
    const before = await likeness(folded.path);
    for (let times = 0; times < 2; times += 1) {
      await vm.replaceDiskLayers({ above, below: [folded], replaced }, deadline());
      for (const path of paths) assert.ok(!(await isOpen(path)), `${path} is closed`);
      assert.ok(await isOpen(folded.path));
    }
    this.#disks.set(vm, [folded, ...rest]);
    for (const path of paths) assert.equal((await stat(path)).nlink, 1, "nobody keeps it");
    assert.equal(await likeness(folded.path), before, "nobody wrote to it");
    return paths;
  }

  async savesWhole(): Promise<void> {
    const path = this.#newPath("whole");
    const disk: DiskLayer[] = [];
    {
      await using undo = new AsyncDisposableStack();
      const run = await this.#wake(undo, undefined);
      await run.vm.releaseVcpus(deadline());
      await this.#rig.remember(run, "all of it");
      await run.vm.holdVcpus(deadline());
      await run.vm.flushDisk(deadline());
      await run.vm.saveWholeState(path, deadline());
      disk.push(...this.#layersOf(run.vm));
    }
    await using undo = new AsyncDisposableStack();
    const run = await this.#wake(undo, {
      ...{ deviceStatePath: path, layers: [], disk, pages: [] },
      isWhole: true,
    });
    await run.vm.releaseVcpus(deadline());
    assert.deepEqual(await this.#rig.recall(run), { memory: "all of it", disk: "all of it" });
    // From now on its saves are relative to the image, from which it was not loaded.
    await this.#rig.remember(run, "more");
    await run.vm.holdVcpus(deadline());
    const saved = await this.#save(run.vm, undefined);
    await run.vm.end(deadline());
    const next = await this.#wake(undo, saved);
    await this.#assertWoken(next.vm, saved);
  }

  async isAdopted(): Promise<void> {
    await using undo = new AsyncDisposableStack();
    const before = await this.#wake(undo, undefined);
    await before.vm.releaseVcpus(deadline());
    await this.#rig.remember(before, "before");
    await before.vm.holdVcpus(deadline());
    const loaded = await this.#save(before.vm, undefined);
    await before.vm.end(deadline());
    const { vm: first, network } = await this.#wake(undo, loaded);
    await first.releaseVcpus(deadline());
    await this.#rig.remember({ vm: first, network }, "kept");
    first.release();
    const handle = JSON.parse(JSON.stringify(first.handle)) as typeof first.handle;
    const vm = await this.#rig.driver.adopt(handle, deadline());
    this.#disks.set(vm, this.#layersOf(first));
    assert.equal(vm.version, first.version);
    assert.deepEqual(await this.#rig.recall({ vm, network }), { memory: "kept", disk: "kept" });
    await vm.holdVcpus(deadline());
    // Relative to the image, the save also contains what was loaded.
    const saved = await this.#save(vm, undefined);
    await vm.end(deadline());
    await vm.end(deadline());
    await assert.rejects(this.#rig.driver.adopt(handle, deadline()), { code: "vmm.exited" });
    const next = await this.#wake(undo, saved);
    await this.#assertWoken(next.vm, saved);
  }

  async noticesTheEnd(): Promise<void> {
    await using undo = new AsyncDisposableStack();
    const { driver, folder } = this.#rig;
    const run = await this.#wake(undo, undefined);
    await run.vm.releaseVcpus(deadline());
    const { pid, runFolder } = run.vm.handle;
    const others = await driver.processesBelow(`${folder}/elsewhere`);
    assert.deepEqual(others, []);
    const found = await driver.processesBelow(folder);
    assert.deepEqual(
      found.map((process) => [process.pid, process.runFolder]),
      [[pid, runFolder]],
    );
    for (const process of found) await process.end(deadline());
    const exit = await deadline().race(run.vm.exited);
    assert.equal(typeof exit.vmmTail, "string");
    await assert.rejects(run.vm.holdVcpus(deadline()), { code: "vmm.exited" });
    await run.vm.end(deadline());
    assert.deepEqual(await driver.processesBelow(folder), []);
  }

  async refusesDamage(): Promise<void> {
    const path = this.#newPath("damaged");
    await writeFile(path, "no device state at all");
    await using undo = new AsyncDisposableStack();
    const saved = { deviceStatePath: path, layers: [], disk: [], pages: [] };
    await assert.rejects(this.#wake(undo, saved), (error: { code?: string }) =>
      ["vmm.failed", "vmm.exited"].includes(error.code ?? ""),
    );
  }

  async keepsTheImage(): Promise<void> {
    assert.equal(await likeness(this.#rig.imagePath), await this.#imageBefore);
  }

  #layersOf(vm: Vm): readonly DiskLayer[] {
    return this.#disks.get(vm) ?? [];
  }

  /**
   * Restores a VM with held vCPUs; its memory and devices are those of the save, or the template's.
   */
  async #wake(undo: AsyncDisposableStack, saved: Saved | undefined): Promise<ConformanceRun> {
    const { driver, machine, imagePath: memoryPath, disk: base } = this.#rig;
    const deviceStatePath = saved?.deviceStatePath ?? this.#rig.deviceStatePath;
    const network = undo.use(await this.#rig.network());
    const runFolder = this.#newPath("run");
    await mkdir(runFolder, { mode: 0o700 });
    const disk = [...(saved?.disk ?? []), await this.#newLayer()];
    const layers = saved?.layers ?? [];
    const startPager = saved?.isWhole === true ? undefined : this.#rig.pagerOf?.(layers, runFolder);
    using attachment = network.attachment;
    const vm = await driver.restore(
      {
        name: `conformance${this.#made}`,
        ...{ machine, memoryPath, runFolder },
        disk: [base, ...disk],
        network: attachment,
        readsLater: [deviceStatePath],
        ...(startPager === undefined ? {} : { startPager }),
      },
      deadline(),
    );
    undo.defer(() => vm.end(deadline()));
    this.#disks.set(vm, disk);
    if (startPager === undefined && layers.length > 0) {
      await using stack = await MemoryStack.open(layers, vm.memory.sizeBytes);
      await vm.loadMemory(stack, deadline());
    }
    await vm.loadDeviceState(deviceStatePath, deadline());
    return { vm, network };
  }

  /** Saves a VM whose vCPUs are held; it may continue. */
  async #save(vm: Vm, below: Saved | undefined): Promise<Saved> {
    const deviceStatePath = this.#newPath("state");
    const folder = this.#newPath("layer");
    await mkdir(folder);
    await vm.flushDisk(deadline());
    await vm.saveDeviceState(deviceStatePath, deadline());
    const layers = below?.layers ?? [];
    await using stack = await MemoryStack.open(layers, vm.memory.sizeBytes);
    const digest: MemoryLayerDigest = await stack.writeDifference(
      folder,
      this.#rig.imagePath,
      vm.memory,
    );
    return {
      deviceStatePath,
      layers: [...layers, { folder, digest }],
      disk: this.#layersOf(vm),
      pages: readPages(vm),
    };
  }

  /** Saves once more, because not every VMM reveals its memory otherwise. */
  async #look(vm: Vm): Promise<readonly string[]> {
    await vm.saveDeviceState(this.#newPath("state"), deadline());
    return readPages(vm);
  }

  async #assertWoken(vm: Vm, saved: Saved): Promise<void> {
    const pages = await this.#look(vm);
    const differing = pages.flatMap((page, index) => (page === saved.pages[index] ? [] : [index]));
    const { pagesRenewedMax } = this.#rig;
    assert.ok(differing.length <= pagesRenewedMax, `pages ${String(differing)} are others`);
  }

  async #newLayer(): Promise<DiskLayer> {
    const path = `${this.#newPath("disk")}.qcow2`;
    await createOverlay(path, this.#rig.diskBytes);
    return { path, format: "qcow2" };
  }

  /** Copies a layer of a VM that still has it open, and whose vCPUs are held. */
  async #copyLayer({ path, format }: DiskLayer): Promise<DiskLayer> {
    const copy = `${this.#newPath("disk")}.qcow2`;
    await copyFile(path, copy);
    return { path: copy, format };
  }

  #newPath(name: string): string {
    this.#made += 1;
    return join(this.#rig.folder, `${name}${this.#made}`);
  }
}

function readPages(vm: Vm): readonly string[] {
  const chunk = Buffer.alloc(1 << 20);
  const pages: string[] = [];
  for (let at = 0; at < vm.memory.sizeBytes; at += chunk.length) {
    vm.memory.read(at, chunk);
    for (let offset = 0; offset < chunk.length; offset += pageBytes) {
      const page = chunk.subarray(offset, offset + pageBytes);
      pages.push(createHash("sha1").update(page).digest("base64"));
    }
  }
  return pages;
}

/** A text that differs after any write. */
async function likeness(path: string): Promise<string> {
  const { size, mtimeNs, ino } = await stat(path, { bigint: true });
  return `${ino} ${size} ${mtimeNs}`;
}

async function removeAll(paths: readonly string[]): Promise<void> {
  for (const path of paths) await unlink(path);
}

/** Whether any process has the file open. */
async function isOpen(path: string): Promise<boolean> {
  const { ino, dev } = await stat(path);
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    const folder = `/proc/${pid}/fd`;
    for (const fd of await readdir(folder).catch(() => [])) {
      const file = await stat(join(folder, fd)).catch(() => undefined);
      if (file?.ino === ino && file.dev === dev) return true;
    }
  }
  return false;
}

function deadline(): Deadline {
  return Deadline.after(budgetMs, "the conformance test");
}
