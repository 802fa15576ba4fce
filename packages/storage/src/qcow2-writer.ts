/**
 * Writes a new disk layer from its first cluster to its last.
 *
 * Clusters are allocated in order and each is used once, so the counters are known without being
 * kept: they are written after everything else. The header comes last. Until then, and whatever
 * ends the work, the file is no image that any program would open.
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

/** A disk layer in the making; `finish` makes it an image. */
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

  /** Creates the file. @throws storage.failed when it already exists. */
  static async create(path: string, virtualBytes: number): Promise<Qcow2Writer> {
    const file = await open(path, "wx", 0o600).catch((cause: unknown) => {
      throw TorporError.from(cause, "storage.failed", path);
    });
    return new Qcow2Writer(path, file, virtualBytes);
  }

  /** Closes the file, and removes it if it was not finished. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
    if (!this.#isFinished) await rm(this.#path, { force: true });
  }

  /** Allocates clusters for the caller to write. @returns the offset of the first. */
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

  /** Writes the counters and the header, which makes the file an image. Not flushed. */
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

  /** Encodes a block with a one for each cluster in use. */
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
