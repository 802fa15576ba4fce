/**
 * An empty qcow2 overlay: a disk layer that reads everything from the layer below until written.
 *
 * The file is written here rather than by qemu-img because a process start would cost more than
 * all else in creating a sandbox. No backing file is named inside: the VMM is told the layers
 * explicitly, and nothing a guest can influence names a host path.
 */
import { open } from "node:fs/promises";
import { clusterBytes, encodeHeader } from "./qcow2-format.ts";

/** Clusters in order: header, refcount table, refcount block, L1 table. */
const usedClusters = 4;

/** @throws EEXIST when the file is already there. */
export async function createOverlay(path: string, virtualBytes: number): Promise<void> {
  const image = Buffer.alloc(usedClusters * clusterBytes);
  encodeHeader({
    virtualBytes,
    l1OffsetBytes: 3 * clusterBytes,
    refcountTableOffsetBytes: clusterBytes,
    refcountTableClusters: 1,
  }).copy(image);
  image.writeBigUInt64BE(BigInt(2 * clusterBytes), clusterBytes);
  for (let cluster = 0; cluster < usedClusters; cluster += 1) {
    image.writeUInt16BE(1, 2 * clusterBytes + cluster * 2);
  }
  await using file = await open(path, "wx", 0o600);
  await file.writeFile(image);
}
