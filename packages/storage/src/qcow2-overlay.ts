/**
 * An empty qcow2 overlay: a disk layer that reads everything from the layer below until written.
 *
 * The header is written here rather than by qemu-img because a process start would cost more than
 * all else in creating a sandbox. No backing file is named inside: the VMM is told the layers
 * explicitly, and nothing a guest can influence names a host path.
 * Source: QEMU docs/interop/qcow2.
 */
import { open } from "node:fs/promises";

const clusterBits = 16;
const clusterBytes = 1 << clusterBits;
const headerBytes = 104;
const refcountOrder = 4; // 16-bit counters
/** Clusters in order: header, refcount table, refcount block, L1 table. */
const usedClusters = 4;

/** @throws EEXIST when the file is already there. */
export async function createOverlay(path: string, virtualBytes: number): Promise<void> {
  const image = Buffer.alloc(usedClusters * clusterBytes);
  image.write("QFI\xfb", 0, "latin1");
  image.writeUInt32BE(3, 4); // version
  image.writeUInt32BE(clusterBits, 20);
  image.writeBigUInt64BE(BigInt(virtualBytes), 24);
  image.writeUInt32BE(l1Entries(virtualBytes), 36);
  image.writeBigUInt64BE(BigInt(3 * clusterBytes), 40); // L1 table
  image.writeBigUInt64BE(BigInt(clusterBytes), 48); // refcount table
  image.writeUInt32BE(1, 56); // clusters of the refcount table
  image.writeUInt32BE(refcountOrder, 96);
  image.writeUInt32BE(headerBytes, 100);
  image.writeBigUInt64BE(BigInt(2 * clusterBytes), clusterBytes);
  for (let cluster = 0; cluster < usedClusters; cluster += 1) {
    image.writeUInt16BE(1, 2 * clusterBytes + cluster * 2);
  }
  await using file = await open(path, "wx", 0o600);
  await file.writeFile(image);
}

/** One L2 table is one cluster of 8-byte entries, each for one cluster of data. */
function l1Entries(virtualBytes: number): number {
  return Math.ceil(virtualBytes / (clusterBytes * (clusterBytes / 8)));
}
