/**
 * Makes an empty qcow2 overlay: a disk layer that reads everything from the layer below until
 * written.
 *
 * The file is written here rather than by qemu-img because starting a process would cost more than
 * all else in creating a sandbox. It names no backing file: the daemon passes the layers to the VMM
 * explicitly, and nothing a guest can influence names a host path. The write is synchronous, and
 * skips all zeros, because a wake waits for it.
 */
import { closeSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { clusterBytes, encodeHeader } from "./qcow2-format.ts";

/** Clusters in order: header, refcount table, refcount block, L1 table. */
const usedClusters = 4;

/** Makes an overlay of a disk of `virtualBytes`. @throws EEXIST when the file already exists. */
export async function createOverlay(path: string, virtualBytes: number): Promise<void> {
  const header = encodeHeader({
    virtualBytes,
    l1OffsetBytes: 3 * clusterBytes,
    refcountTableOffsetBytes: clusterBytes,
    refcountTableClusters: 1,
  });
  const refcountTable = Buffer.alloc(8);
  refcountTable.writeBigUInt64BE(BigInt(2 * clusterBytes));
  const refcounts = Buffer.alloc(usedClusters * 2);
  for (let cluster = 0; cluster < usedClusters; cluster += 1) {
    refcounts.writeUInt16BE(1, cluster * 2);
  }
  using files = new DisposableStack();
  const fd = files.adopt(openSync(path, "wx", 0o600), closeSync);
  ftruncateSync(fd, usedClusters * clusterBytes);
  for (const [cluster, bytes] of [header, refcountTable, refcounts].entries()) {
    writeSync(fd, bytes, 0, bytes.length, cluster * clusterBytes);
  }
}
