/**
 * Writes a new disk layer from its first cluster to its last.
 *
 * Clusters are given out in order and each is used once, so the counters are known without being kept:
 * they are written behind everything else. The header comes last. Until then, and whatever ends
 * the work, the file is no image that anything would open.
 */
import { type FileHandle, open, rm } from "node:fs/promises";
import { TorporError } from "@torpor/std";
import {
  clusterBytes,
  countersPerCluster,
  encodeHeader,
  entriesPerCluster,
  l1Entries,
  writeReference,
} from "./qcow2-format.ts";
import { writeWhole } from "./whole-io.ts";

const l1OffsetBytes = clusterBytes;

export class Qcow2Writer implements AsyncDisposable {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #virtualBytes: number;
  readonly #l1: Buffer;
  #usedClusters: number;
  #isFinished = false;

  private constructor(path: string, file: FileHandle, virtualBytes: number) {
    this.#path = path;
    this.#file = file;
    this.#virtualBytes = virtualBytes;
    const l1Clusters = Math.ceil(l1Entries(virtualBytes) / entriesPerCluster);
    this.#l1 = Buffer.alloc(l1Clusters * clusterBytes);
    this.#usedClusters = 1 + l1Clusters;
  }

  /** @throws storage.failed when the file is already there. */
  static async create(path: string, virtualBytes: number): Promise<Qcow2Writer> {
    const file = await open(path, "wx", 0o600).catch((cause: unknown) => {
      throw TorporError.from(cause, "storage.failed", path);
    });
    return new Qcow2Writer(path, file, virtualBytes);
  }

  /** Leaves no trace of a file that was not finished. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
    if (!this.#isFinished) await rm(this.#path, { force: true });
  }

  /** @returns the offset of the first of so many clusters, which are the caller's to write. */
  allocate(clusters: number): number {
    const offsetBytes = this.#usedClusters * clusterBytes;
    this.#usedClusters += clusters;
    return offsetBytes;
  }

  async write(offsetBytes: number, bytes: Uint8Array): Promise<void> {
    await writeWhole(this.#file, bytes, offsetBytes).catch((cause: unknown) => {
      throw TorporError.from(cause, "storage.failed", this.#path);
    });
  }

  async writeL2(l1Index: number, table: Buffer): Promise<void> {
    const offsetBytes = this.allocate(1);
    await this.write(offsetBytes, table);
    writeReference(this.#l1, l1Index, offsetBytes);
  }

  /** Makes it an image. Not flushed. */
  async finish(): Promise<void> {
    const { blocks, tableClusters } = refcountShape(this.#usedClusters);
    const blocksOffsetBytes = this.allocate(blocks);
    const refcountTableOffsetBytes = this.allocate(tableClusters);
    const table = Buffer.alloc(tableClusters * clusterBytes);
    for (let index = 0; index < blocks; index += 1) {
      const offsetBytes = blocksOffsetBytes + index * clusterBytes;
      await this.write(offsetBytes, this.#refcountBlock(index));
      table.writeBigUInt64BE(BigInt(offsetBytes), index * 8);
    }
    await this.write(refcountTableOffsetBytes, table);
    await this.write(l1OffsetBytes, this.#l1);
    const header = Buffer.alloc(clusterBytes);
    encodeHeader({
      virtualBytes: this.#virtualBytes,
      l1OffsetBytes,
      refcountTableOffsetBytes,
      refcountTableClusters: tableClusters,
    }).copy(header);
    await this.write(0, header);
    this.#isFinished = true;
  }

  /** A one for each cluster in use. */
  #refcountBlock(index: number): Buffer {
    const counters = Math.min(this.#usedClusters - index * countersPerCluster, countersPerCluster);
    return Buffer.alloc(clusterBytes).fill("0001", 0, counters * 2, "hex");
  }
}

/** Blocks and table count themselves, so a few more clusters may need one more block. */
function refcountShape(otherClusters: number): { blocks: number; tableClusters: number } {
  let blocks = 0;
  let tableClusters = 0;
  for (;;) {
    const needed = Math.ceil((otherClusters + blocks + tableClusters) / countersPerCluster);
    if (needed === blocks) return { blocks, tableClusters };
    blocks = needed;
    tableClusters = Math.ceil(blocks / entriesPerCluster);
  }
}
