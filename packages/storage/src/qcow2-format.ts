/**
 * The part of the qcow2 format, version 3, that a disk layer consists of.
 *
 * A file is a row of clusters. The first holds the header, which names two tables. The L1 table has an
 * entry for each L2 table, and an L2 table one for each guest cluster: nothing, when the layer below
 * is read; a flag, when it reads as zeros; or where in the file its data is. The refcount table
 * names blocks of counters, one for each cluster of the file.
 * Source: QEMU docs/interop/qcow2.
 */
export const clusterBytes = 1 << 16;
/** Entries of eight bytes in one cluster of an L2 table, the L1 table or the refcount table. */
export const entriesPerCluster = clusterBytes / 8;
/** Counters of two bytes in a refcount block. */
export const countersPerCluster = clusterBytes / 2;
/** The length of a version 3 header without extensions. */
export const headerBytes = 104;

/** The first four bytes of every qcow2 file. */
export const magic = 0x51_46_49_fb; // "QFI\xfb"
/** The only version of the format that a layer has. */
export const version = 3;
/** The size of a cluster, as the header holds it: log2 of `clusterBytes`. */
export const clusterBits = 16;
/** The width of a counter, as the header holds it: log2 of its bits. */
export const refcountOrder = 4; // 16-bit counters

/** Bit 63 of an entry, in its upper word: it names a cluster of the file. */
export const usedOnceBit = 0x8000_0000;
/** Bit 0 of an L2 entry, in its lower word: the guest cluster reads as zeros. */
export const zeroedBit = 1;

/** The fields of a header that differ between layers. */
export interface Qcow2Header {
  readonly virtualBytes: number;
  readonly l1OffsetBytes: number;
  readonly refcountTableOffsetBytes: number;
  readonly refcountTableClusters: number;
}

/** Counts the guest clusters on a disk of this size; the last may be cut short. */
export function guestClusters(virtualBytes: number): number {
  return Math.ceil(virtualBytes / clusterBytes);
}

/** Counts the entries of the L1 table of a disk of this size. */
export function l1Entries(virtualBytes: number): number {
  return Math.ceil(guestClusters(virtualBytes) / entriesPerCluster);
}

/** Encodes the header of a layer. */
export function encodeHeader(header: Qcow2Header): Buffer {
  const bytes = Buffer.alloc(headerBytes);
  bytes.writeUInt32BE(magic, 0);
  bytes.writeUInt32BE(version, 4);
  bytes.writeUInt32BE(clusterBits, 20);
  bytes.writeBigUInt64BE(BigInt(header.virtualBytes), 24);
  bytes.writeUInt32BE(l1Entries(header.virtualBytes), 36);
  bytes.writeBigUInt64BE(BigInt(header.l1OffsetBytes), 40);
  bytes.writeBigUInt64BE(BigInt(header.refcountTableOffsetBytes), 48);
  bytes.writeUInt32BE(header.refcountTableClusters, 56);
  bytes.writeUInt32BE(refcountOrder, 96);
  bytes.writeUInt32BE(headerBytes, 100);
  return bytes;
}

/** Writes an L1 or L2 entry that names a cluster of the file, which no other entry names. */
export function writeReference(table: Buffer, index: number, offsetBytes: number): void {
  table.writeUInt32BE(usedOnceBit + Math.floor(offsetBytes / 2 ** 32), index * 8);
  table.writeUInt32BE(offsetBytes % 2 ** 32, index * 8 + 4);
}

/** Writes the L2 entry of a guest cluster that reads as zeros, whatever is below. */
export function writeZeroed(table: Buffer, index: number): void {
  table.writeUInt32BE(0, index * 8);
  table.writeUInt32BE(zeroedBit, index * 8 + 4);
}
