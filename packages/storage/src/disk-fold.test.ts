import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import {
  copyFile,
  mkdtempDisposable,
  open,
  readFile,
  readdir,
  stat,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import { foldDiskLayers } from "./disk-fold.ts";
import { createOverlay } from "./qcow2-overlay.ts";

const clusterBytes = 65_536;
const tableBytes = 8192 * clusterBytes;
/** Two L2 tables, and a last cluster that is cut short. */
const virtualBytes = tableBytes + 5 * clusterBytes + 1536;
/** Where tests write: the start, and across the border of the two tables up to the end. */
const windows = [
  { startBytes: 0, endBytes: 40 * clusterBytes },
  { startBytes: tableBytes - 10 * clusterBytes, endBytes: virtualBytes },
] as const;
/** Where `createOverlay` and QEMU put things in a layer whose first write is to guest cluster 0. */
const l1OffsetBytes = 3 * clusterBytes;
const firstL2OffsetBytes = 4 * clusterBytes;

const skip =
  spawnSync("qemu-io", ["--version"]).status === 0 ? false : "qemu-utils is not installed";

/** A base disk and the layers that QEMU wrote above it. */
class Chain {
  readonly folder: string;
  readonly layers: string[] = [];

  constructor(folder: string) {
    this.folder = folder;
  }

  get base(): string {
    return join(this.folder, "base");
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** Random where tests write, so that no cluster is like another. */
  async makeBase(): Promise<void> {
    await using file = await open(this.base, "wx");
    await file.truncate(virtualBytes);
    for (const { startBytes, endBytes } of windows) {
      await file.write(randomBytes(endBytes - startBytes), 0, endBytes - startBytes, startBytes);
    }
  }

  async addLayer(...commands: string[]): Promise<string> {
    const path = this.path(`layer${this.layers.length}`);
    await createOverlay(path, virtualBytes);
    this.write(path, this.layers, commands);
    this.layers.push(path);
    return path;
  }

  /** Has QEMU write to `top`, above the base and `below`. */
  write(top: string, below: readonly string[], commands: readonly string[]): void {
    const image = { ...this.#nodes([...below, top]), discard: "unmap", "detect-zeroes": "unmap" };
    const each = [...commands, "flush"].flatMap((command) => ["-c", command]);
    qemu("qemu-io", [...each, `json:${JSON.stringify(image)}`]);
  }

  async fold(name: string, layers: readonly string[]): Promise<string> {
    const target = this.path(name);
    await foldDiskLayers(layers, target, virtualBytes);
    qemu("qemu-img", ["check", target]);
    return target;
  }

  /** Compares the content of two chains, above the base and above a disk of another content. */
  compare(one: readonly string[], other: readonly string[]): void {
    const opaque = { driver: "null-co", size: virtualBytes, "read-zeroes": true };
    for (const base of [undefined, opaque]) {
      const [a, b] = [one, other].map((layers) => JSON.stringify(this.#nodes(layers, base)));
      qemu("qemu-img", ["compare", `json:${a}`, `json:${b}`]);
    }
  }

  #nodes(layers: readonly string[], base: object = this.#baseNode()): object {
    return layers.reduce(
      (backing, path) => ({ driver: "qcow2", file: { driver: "file", filename: path }, backing }),
      base,
    );
  }

  #baseNode(): object {
    return { driver: "raw", file: { driver: "file", filename: this.base } };
  }
}

function qemu(command: string, args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8" });
  assert.equal(status, 0, `${command} ${args.join(" ")}\n${stdout}${stderr}`);
  // qemu-io reports a failure and still exits with 0.
  assert.doesNotMatch(stdout + stderr, /failed|error:/i, `${command} ${args.join(" ")}`);
  return stdout;
}

interface ClusterCounts {
  readonly "allocated-clusters"?: number;
}

function dataClusters(path: string): number {
  const counts = JSON.parse(qemu("qemu-img", ["check", "--output=json", path])) as ClusterCounts;
  return counts["allocated-clusters"] ?? 0;
}

async function withChain(work: (chain: Chain) => Promise<void>): Promise<void> {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-fold-"));
  const chain = new Chain(folder.path);
  await chain.makeBase();
  await work(chain);
}

/** Whole numbers below a bound, the same for the same seed. */
function seededRandom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Everything a guest may do to its disk: whole clusters and parts, data, zeros and discards. */
function randomCommand(random: (below: number) => number): string {
  const { startBytes, endBytes } = windows[random(2) === 0 ? 0 : 1];
  const unitBytes = random(2) === 0 ? 512 : clusterBytes;
  const start = startBytes + random((endBytes - startBytes) / unitBytes) * unitBytes;
  const length = Math.min(
    (1 + random(8 * (clusterBytes / unitBytes))) * unitBytes,
    endBytes - start,
  );
  const verbs = [
    `write -P ${1 + random(255)}`,
    `write -P ${1 + random(255)}`,
    "write -P 0",
    "write -z",
    "write -z -u",
    "discard",
  ];
  return `${verbs[random(verbs.length)]} ${start} ${length}`;
}

function randomCommands(random: (below: number) => number): string[] {
  return Array.from({ length: 1 + random(14) }, () => randomCommand(random));
}

async function sha256(path: string): Promise<string> {
  return createHash("sha256")
    .update(await readFile(path))
    .digest("hex");
}

async function assertRefused(chain: Chain, layers: readonly string[], name: string): Promise<void> {
  const before = await readdir(chain.folder);
  await assert.rejects(
    foldDiskLayers(layers, chain.path("target"), virtualBytes),
    (error) => {
      assert.ok(TorporError.is(error) && error.code === "snapshot.corrupt", String(error));
      assert.ok(error.rawMessage.includes(name), error.rawMessage);
      return true;
    },
    `${name} was accepted`,
  );
  assert.deepEqual(await readdir(chain.folder), before);
}

/** A copy of the layer with one bit flipped; bits are counted as in the format's description. */
async function flipBit(path: string, damaged: string, atByte: number, bit: number): Promise<void> {
  await copyFile(path, damaged);
  await using file = await open(damaged, "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, atByte + 7 - Math.floor(bit / 8));
  byte.writeUInt8(byte.readUInt8(0) ^ (1 << (bit % 8)));
  await file.write(byte, 0, 1, atByte + 7 - Math.floor(bit / 8));
}

test("each guest cluster is what the newest layer says", { skip }, async () => {
  await withChain(async (chain) => {
    const last = tableBytes + 5 * clusterBytes;
    await chain.addLayer(
      "write -P 1 0 1M",
      `write -P 2 ${tableBytes - clusterBytes} 128k`,
      "write -z 1M 1M",
    );
    await chain.addLayer("write -z 0 64k", "discard 128k 128k", "write -P 3 1152k 192k");
    await chain.addLayer(
      "write -P 4 4608 512",
      "write -P 5 70000 70000",
      `write -P 6 ${last} 1536`,
    );
    await chain.addLayer(
      "write -P 0 256k 128k",
      `write -z ${last + 512} 1024`,
      "write -P 7 3M 512",
    );
    const hashes = await Promise.all(chain.layers.map(sha256));
    const folded = await chain.fold("folded", chain.layers);
    chain.compare(chain.layers, [folded]);
    assert.deepEqual(await Promise.all(chain.layers.map(sha256)), hashes);
    assert.equal((await stat(folded)).mode & 0o777, 0o600);
  });
});

for (const seed of [1, 2, 3, 4, 5, 6]) {
  test(`what a guest may do means the same when folded (seed ${seed})`, { skip }, async () => {
    const random = seededRandom(seed);
    await withChain(async (chain) => {
      const count = 2 + random(4);
      for (let layer = 0; layer < count; layer += 1)
        await chain.addLayer(...randomCommands(random));
      const first = random(count);
      const below = chain.layers.slice(0, first);
      const folded = await chain.fold("folded", chain.layers.slice(first));
      chain.compare(chain.layers, [...below, folded]);
      const more = randomCommands(random);
      await chain.addLayer(...more);
      chain.write(folded, below, more);
      chain.compare(chain.layers, [...below, folded]);
      qemu("qemu-img", ["check", folded]);
    });
  });
}

test("a fold of a fold means the same, and of one layer no more than it", { skip }, async () => {
  const random = seededRandom(7);
  await withChain(async (chain) => {
    for (let layer = 0; layer < 5; layer += 1) await chain.addLayer(...randomCommands(random));
    const once = await chain.fold("once", chain.layers.slice(0, 3));
    const again = await chain.fold("again", [once, ...chain.layers.slice(3)]);
    chain.compare(chain.layers, [again]);
    const atOnce = await chain.fold("at-once", chain.layers);
    assert.equal(await sha256(again), await sha256(atOnce));
    assert.equal(await sha256(await chain.fold("alone", [again])), await sha256(again));
  });
});

test("a layer whose QEMU was killed after a flush is a sound one", { skip }, async () => {
  const random = seededRandom(8);
  await withChain(async (chain) => {
    const before = await chain.addLayer(...randomCommands(random));
    const path = chain.path("killed");
    await createOverlay(path, virtualBytes);
    const commands = [...randomCommands(random), "flush", "sigraise 9"].flatMap((one) => [
      "-c",
      one,
    ]);
    assert.equal(spawnSync("qemu-io", [...commands, path]).signal, "SIGKILL");
    chain.compare([before, path], [await chain.fold("folded", [before, path])]);
  });
});

test("layers nobody wrote to become one like them", { skip }, async () => {
  await withChain(async (chain) => {
    await chain.addLayer();
    await chain.addLayer();
    const folded = await chain.fold("folded", chain.layers);
    assert.equal((await stat(folded)).size, (await stat(chain.layers[0] ?? "")).size);
    chain.compare([], [folded]);
  });
});

test("zeros take no room in a fold", { skip }, async () => {
  await withChain(async (chain) => {
    // Written in parts, so that QEMU does not see that the whole is zeros.
    const parts = [
      "write -P 9 0 512",
      "write -P 8 64k 64k",
      "write -P 0 512 65024",
      "write -P 0 0 512",
    ];
    const layer = await chain.addLayer(...parts, "write -z 64k 64k", "write -P 1 128k 64k");
    // Where QEMU turned data into zeros, it keeps the place of the data.
    assert.equal(dataClusters(layer), 3);
    const folded = await chain.fold("folded", chain.layers);
    assert.equal(dataClusters(folded), 1);
    chain.compare(chain.layers, [folded]);
  });
});

test("a flipped bit in a header or a table is found", { skip }, async () => {
  await withChain(async (chain) => {
    const good = await chain.addLayer("write -P 1 0 1M", "write -z 1M 64k");
    const damaged = chain.path("damaged");
    await copyFile(good, damaged);
    // Words of the header up to the count of snapshots; then incompatible features, refcount order.
    const words = [0, 8, 16, 24, 32, 40, 48, 56, 72].map((atByte) => ({ atByte, firstBit: 0 }));
    words.push({ atByte: 96, firstBit: 32 });
    words.push({ atByte: l1OffsetBytes, firstBit: 0 });
    // An entry with the lowest bit flipped is another valid one: zeros instead of data.
    words.push({ atByte: firstL2OffsetBytes, firstBit: 1 });
    for (const { atByte, firstBit } of words) {
      for (let bit = firstBit; bit < 64; bit += 1) {
        await flipBit(good, damaged, atByte, bit);
        await assertRefused(chain, [good, damaged], damaged);
      }
    }
  });
});

test("a layer that is cut short, empty, foreign or missing is refused", { skip }, async () => {
  await withChain(async (chain) => {
    const good = await chain.addLayer("write -P 1 0 1M", `write -P 2 ${tableBytes} 64k`);
    const damaged = chain.path("damaged");
    await copyFile(good, damaged);
    const { size } = await stat(good);
    for (const bytes of [size - 1, size - clusterBytes, 5 * clusterBytes, clusterBytes, 100, 0]) {
      await copyFile(good, damaged);
      await truncate(damaged, bytes);
      await assertRefused(chain, [damaged, good], damaged);
    }
    await writeFile(damaged, randomBytes(size));
    await assertRefused(chain, [good, damaged], damaged);
    await assertRefused(chain, [good, chain.path("missing")], chain.path("missing"));
  });
});

test("a layer that is more than an overlay is refused", { skip }, async () => {
  await withChain(async (chain) => {
    const other = chain.path("other");
    const create = (...args: string[]): string =>
      qemu("qemu-img", ["create", "-q", "-f", "qcow2", ...args]);
    await writeFile(other, "");
    create("-b", chain.base, "-F", "raw", other, String(virtualBytes));
    await assertRefused(chain, [other], "backing file");
    create("-o", "cluster_size=128k", other, String(virtualBytes));
    await assertRefused(chain, [other], "cluster bits");
    create("-o", "compat=0.10", other, String(virtualBytes));
    await assertRefused(chain, [other], "version");
    create("-o", "extended_l2=on", other, String(virtualBytes));
    await assertRefused(chain, [other], "incompatible features");
    create(other, String(virtualBytes + 512));
    await assertRefused(chain, [other], "the size");
    create(other, String(virtualBytes));
    qemu("qemu-img", ["snapshot", "-c", "one", other]);
    await assertRefused(chain, [other], "internal snapshots");
    await assertRefused(chain, [await chain.addLayer("write -c -P 1 0 64k")], "has an entry 4");
  });
});

test("a fold that is given up, or has no free place, leaves what was there", { skip }, async () => {
  await withChain(async (chain) => {
    const layer = await chain.addLayer("write -P 1 0 1M");
    const target = chain.path("target");
    const reason = new TorporError("canceled", "no longer wanted");
    const controller = new AbortController();
    const folding = foldDiskLayers([layer], target, virtualBytes, controller.signal);
    controller.abort(reason);
    await assert.rejects(folding, reason);
    await assert.rejects(stat(target));
    await writeFile(target, "precious");
    await assert.rejects(foldDiskLayers([layer], target, virtualBytes), /storage.failed.*EEXIST/);
    assert.equal(await readFile(target, "utf8"), "precious");
  });
});
