/**
 * In which order files reach the disk: a power cut at any moment must find no name that leads to
 * something that is not there. What Node is asked for is recorded while the real host code saves, forks
 * and folds in a world of fake VMs; that the kernel keeps what was flushed is taken for granted.
 */
import assert from "node:assert/strict";
import { syncBuiltinESMExports } from "node:module";
import fs from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { mock, test } from "node:test";
import { parseJson } from "@torpor/std";
import type { SnapshotManifest } from "@torpor/storage";
import { play } from "./player.ts";
import type { Operation, Turn } from "./script.ts";

const stagedSuffix = ".staged";

/** A snapshot that got its name, and how much had been flushed by then. */
interface Published {
  readonly to: string;
  /** Of its files, its folder, and what it names of others. */
  readonly needed: readonly string[];
  readonly flushedBefore: number;
}

/** Every flush and every publication of a snapshot, in order, until it is disposed. */
class Trace implements Disposable {
  readonly flushed: string[] = [];
  readonly published: Published[] = [];

  constructor() {
    const { open, rename } = fs;
    mock.method(fs, "open", async (...given: Parameters<typeof open>) => {
      const handle = await open(...given);
      const sync = handle.sync.bind(handle);
      handle.sync = async () => {
        await sync();
        this.flushed.push(String(given[0]));
      };
      return handle;
    });
    mock.method(fs, "rename", async (from: string, to: string) => {
      if (basename(dirname(from)) === "snapshots") {
        const flushedBefore = this.flushed.length;
        this.published.push({ to, needed: await neededBy(from), flushedBefore });
      }
      await rename(from, to);
    });
    syncBuiltinESMExports();
  }

  [Symbol.dispose](): void {
    mock.restoreAll();
    syncBuiltinESMExports();
  }
}

/** In the order in which they must be flushed: files, then the folders that hold their names. */
async function neededBy(staged: string): Promise<readonly string[]> {
  const files = (await fs.readdir(staged)).map((name) => join(staged, name));
  const text = await fs.readFile(join(staged, "manifest.json"), "utf8");
  const { manifest } = parseJson(text, staged) as { readonly manifest: SnapshotManifest };
  const disks = join(dirname(dirname(staged)), "disks");
  const layers = manifest.disk.map(({ layerId }) => join(disks, `${layerId}.qcow2`));
  return [...files, staged, ...layers, disks];
}

const target = 0;
const epoch = "none";
const write = { memoryCell: 0, diskCell: 0, value: "new" } as const;
const one = (operation: Operation): Turn => ({ operations: [operation] });
const cycle: readonly Turn[] = [
  one({ verb: "write", target, write }),
  one({ verb: "snapshot", target, name: null, epoch }),
  one({ verb: "pause", target, epoch }),
  { operations: [], daemon: "idle" },
  one({ verb: "resume", target, epoch }),
];

test("a snapshot is named once all that it names is on disk, and then its name is", async () => {
  using trace = new Trace();
  await play({
    seed: 0,
    saveWhole: false,
    turns: [
      one({ verb: "create", source: 0, onTimeout: "pause" }),
      ...Array.from({ length: 4 }, () => cycle).flat(),
    ],
  });
  assert.ok(trace.published.length > 8, `${trace.published.length} snapshots, some by a fold`);
  for (const { to, needed, flushedBefore } of trace.published) {
    const before = trace.flushed.slice(0, flushedBefore);
    for (const path of needed) assert.ok(before.includes(path), `${path} before ${to}`);
    const lastOf = (paths: readonly string[]): number =>
      Math.max(...paths.map((path) => before.lastIndexOf(path)));
    const staged = `${to}${stagedSuffix}`;
    const own = needed.filter((path) => dirname(path) === staged);
    assert.ok(lastOf([staged]) > lastOf(own), "a folder after its files");
    const layers = needed.filter((path) => path.endsWith(".qcow2"));
    const disks = needed.slice(-1);
    assert.ok(lastOf(disks) > lastOf(layers), "the names of disk layers after the layers");
    assert.ok(trace.flushed.slice(flushedBefore).includes(dirname(to)), `the name ${to}`);
  }
});
