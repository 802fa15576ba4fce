/**
 * The disk of a fake VM: real files, a raw one below qcow2 layers. It has its own code for reading
 * and writing them, so that the storage package's folds are checked by other code than its own.
 *
 * The guest's writes reach the top layer's file with `flush`, as QEMU promises no more. Each read
 * opens the files again, so that a layer that was removed too early is missed at once.
 */
import { closeSync, fstatSync, openSync, readSync, writeSync } from "node:fs";
import { TorporError, assert } from "@torpor/std";
import type { DiskLayer, LayerReplacement } from "@torpor/vmm";
import { patternOf, textOf } from "./pattern.ts";

/** The size of a qcow2 cluster. */
export const clusterBytes = 1 << 16;
/** Where an empty overlay has its counters and its L1 table. */
const countersOffsetBytes = 2 * clusterBytes;
const usedOnce = 1n << 63n;
const offsetBits = 0x00ff_ffff_ffff_fe00n;
const zeroedEntry = 1n;
/** Shared by all reads: each result is examined before the next read. */
const scratch = Buffer.alloc(clusterBytes);

/** A stack of layers that a fake guest reads and writes, one short text a cluster. */
export class FakeDisk {
  readonly #layers: DiskLayer[];
  readonly #unflushed = new Map<number, string>();

  constructor(layers: readonly DiskLayer[]) {
    this.#layers = [...layers];
  }

  get paths(): readonly string[] {
    return this.#layers.map(({ path }) => path);
  }

  get top(): string {
    return this.paths.at(-1) ?? "";
  }

  read(cluster: number): string {
    const unflushed = this.#unflushed.get(cluster);
    if (unflushed !== undefined) return unflushed;
    for (const { path, format } of this.#layers.toReversed()) {
      const text = format === "raw" ? readRaw(path, cluster) : readLayer(path, cluster);
      if (text !== undefined) return text;
    }
    return "";
  }

  write(cluster: number, text: string): void {
    this.#unflushed.set(cluster, text);
  }

  flush(): void {
    for (const [cluster, text] of this.#unflushed) writeLayer(this.top, cluster, text);
    this.#unflushed.clear();
  }

  /** Adds a layer and seals the one below: this fake loses what was not flushed to it. */
  addLayer(layer: DiskLayer): void {
    this.#unflushed.clear();
    this.#layers.push(layer);
  }

  /** Replaces layers, like QEMU. @throws vmm.failed when `above` is not in the stack */
  replaceLayers({ above, below }: Pick<LayerReplacement, "above" | "below">): void {
    const index = this.paths.indexOf(above.path);
    if (index < 1) throw new TorporError("vmm.failed", `${above.path} is not open`);
    this.#layers.splice(1, index - 1, ...below);
  }
}

function readRaw(path: string, cluster: number): string {
  using file = openFile(path, "r");
  return textOf(file.read(cluster * clusterBytes, clusterBytes));
}

/** Reads a cluster of one layer; undefined when the layer does not have it. */
function readLayer(path: string, cluster: number): string | undefined {
  using file = openFile(path, "r");
  const l2OffsetBytes = place(file.readNumber(l1OffsetBytes(file)));
  if (l2OffsetBytes === 0) return undefined;
  const entry = file.readNumber(l2OffsetBytes + cluster * 8);
  if ((entry & zeroedEntry) !== 0n) return "";
  if (entry === 0n) return undefined;
  return textOf(file.read(place(entry), clusterBytes));
}

function writeLayer(path: string, cluster: number, text: string): void {
  using file = openFile(path, "r+");
  const l1Bytes = l1OffsetBytes(file);
  let l2OffsetBytes = place(file.readNumber(l1Bytes));
  if (l2OffsetBytes === 0) {
    l2OffsetBytes = file.append(Buffer.alloc(clusterBytes));
    file.writeNumber(l1Bytes, usedOnce | BigInt(l2OffsetBytes));
  }
  const entryBytes = l2OffsetBytes + cluster * 8;
  const data = place(file.readNumber(entryBytes));
  if (text === "") {
    // A cluster that becomes zeros keeps its place in the file.
    const kept = data === 0 ? 0n : usedOnce | BigInt(data);
    file.writeNumber(entryBytes, kept | zeroedEntry);
    return;
  }
  const content = patternOf(text, clusterBytes);
  const at = data === 0 ? file.append(content) : data;
  file.write(at, content);
  file.writeNumber(entryBytes, usedOnce | BigInt(at));
}

function l1OffsetBytes(file: OpenFile): number {
  return Number(file.readNumber(40));
}

function place(entry: bigint): number {
  return Number(entry & offsetBits);
}

interface OpenFile extends Disposable {
  /** Zeros beyond the end. Valid until the next read. */
  read(offsetBytes: number, lengthBytes: number): Buffer;
  readNumber(offsetBytes: number): bigint;
  write(offsetBytes: number, bytes: Buffer): void;
  writeNumber(offsetBytes: number, value: bigint): void;
  /** Adds a cluster and counts it. @returns its offset */
  append(cluster: Buffer): number;
}

function openFile(path: string, flags: "r" | "r+"): OpenFile {
  const fd = openSync(path, flags);
  const file: OpenFile = {
    read: (offsetBytes, lengthBytes) => {
      const bytes = scratch.subarray(0, lengthBytes);
      const found = readSync(fd, bytes, 0, lengthBytes, offsetBytes);
      return bytes.fill(0, found);
    },
    readNumber: (offsetBytes) => file.read(offsetBytes, 8).readBigUInt64BE(),
    write: (offsetBytes, bytes) => {
      const written = writeSync(fd, bytes, 0, bytes.length, offsetBytes);
      assert(written === bytes.length, "a local file takes all");
    },
    writeNumber: (offsetBytes, value) => {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64BE(value);
      file.write(offsetBytes, bytes);
    },
    append: (cluster) => {
      const at = fstatSync(fd).size;
      file.write(at, cluster);
      file.write(countersOffsetBytes + (at / clusterBytes) * 2, Buffer.from([0, 1]));
      return at;
    },
    [Symbol.dispose]: () => closeSync(fd),
  };
  return file;
}
