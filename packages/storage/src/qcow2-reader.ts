/**
 * Reads one sealed disk layer: which guest clusters it has, and their data.
 *
 * QEMU wrote the file above an empty overlay of ours, and a hostile guest drove QEMU: nothing in
 * the file is used before it is checked. The reader accepts only what such a layer can hold; it
 * refuses other features of qcow2, and also a backing file. The file is opened for reading only.
 *
 * ORDER: header, counters, L1 table; then each L2 table once, because reading one claims its
 * clusters.
 */
import { type FileHandle, open } from "node:fs/promises";
import { TorporError, systemCode } from "@torpor/std";
import { ClusterClaims } from "./qcow2-claims.ts";
import {
  type Qcow2Header,
  clusterBits,
  clusterBytes,
  countersPerCluster,
  entriesPerCluster,
  guestClusters,
  headerBytes,
  l1Entries,
  magic,
  refcountOrder,
  usedOnceBit,
  version,
  zeroedBit,
} from "./qcow2-format.ts";
import { readWhole } from "./whole-io.ts";

/**
 * The state of a guest cluster that a layer does not have. A number other than this and `zeroed` is
 * the offset of its data in the file.
 */
export const inherited = 0;
/** The state of a guest cluster that reads as zeros. */
export const zeroed = 1;

/** Bits 9 to 55 of an entry. */
const offsetBitsHigh = 0x00ff_ffff;
const offsetBitsLow = 0xffff_fe00;
/** Bits 56 to 61, and bit 62 of a compressed cluster, which no layer has. */
const reservedBitsHigh = 0x7f00_0000;
/** Bits 1 to 8. */
const reservedBitsLow = 0x0000_01fe;

/** A disk layer opened for reading, with its header, counters and L1 table checked. */
export class Qcow2Reader implements AsyncDisposable {
  readonly #source: Source;
  readonly #virtualBytes: number;
  readonly #claims: ClusterClaims;
  readonly #l1: Float64Array;

  private constructor(
    source: Source,
    virtualBytes: number,
    claims: ClusterClaims,
    l1: Float64Array,
  ) {
    this.#source = source;
    this.#virtualBytes = virtualBytes;
    this.#claims = claims;
    this.#l1 = l1;
  }

  /** Opens and checks a layer. @throws snapshot.corrupt naming the file and the place. */
  static async open(path: string, virtualBytes: number): Promise<Qcow2Reader> {
    await using undo = new AsyncDisposableStack();
    const source = undo.use(await Source.open(path));
    const header = await readHeader(source, virtualBytes);
    const claims = await readClaims(source, header);
    const l1 = await readL1(source, header, claims);
    undo.move();
    return new Qcow2Reader(source, virtualBytes, claims, l1);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#source[Symbol.asyncDispose]();
  }

  /**
   * Reads the states of the guest clusters of one L2 table, or undefined when the layer has none of
   * them. Call it once for each table.
   */
  async readStates(l1Index: number): Promise<Float64Array | undefined> {
    const offsetBytes = this.#l1[l1Index] ?? inherited;
    if (offsetBytes === inherited) return undefined;
    const table = await this.#source.read(offsetBytes, clusterBytes, "an L2 table");
    const states = decodeEntries(this.#source, table, offsetBytes, this.#claims);
    const onDisk = guestClusters(this.#virtualBytes) - l1Index * entriesPerCluster;
    if (states.subarray(onDisk).some((state) => state !== inherited)) {
      throw this.#source.damaged(offsetBytes, "the L2 table names clusters past the disk's end");
    }
    return states;
  }

  /** Reads the data of clusters that are adjacent in the file. */
  async readData(offsetBytes: number, into: Uint8Array): Promise<void> {
    await this.#source.readInto(offsetBytes, into, "data");
  }
}

/** The layer's file, with errors that name it. */
class Source implements AsyncDisposable {
  readonly bytes: number;
  readonly #path: string;
  readonly #file: FileHandle;

  private constructor(path: string, file: FileHandle, bytes: number) {
    this.#path = path;
    this.#file = file;
    this.bytes = bytes;
  }

  static async open(path: string): Promise<Source> {
    const file = await open(path, "r").catch((cause: unknown) => {
      if (systemCode(cause) !== "ENOENT") throw TorporError.from(cause, "storage.failed", path);
      throw new TorporError("snapshot.corrupt", `${path} is missing`, { cause });
    });
    await using undo = new AsyncDisposableStack();
    undo.use(file);
    const { size } = await file.stat();
    undo.move();
    return new Source(path, file, size);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }

  async read(offsetBytes: number, lengthBytes: number, what: string): Promise<Buffer> {
    // Checked first: the number comes from the file, and a damaged one may be too large to
    // allocate.
    if (offsetBytes + lengthBytes > this.bytes) throw this.#endsEarly(offsetBytes, what);
    const bytes = Buffer.allocUnsafe(lengthBytes);
    await this.readInto(offsetBytes, bytes, what);
    return bytes;
  }

  async readInto(offsetBytes: number, into: Uint8Array, what: string): Promise<void> {
    const found = await readWhole(this.#file, into, offsetBytes).catch((cause: unknown) => {
      throw TorporError.from(cause, "storage.failed", this.#path);
    });
    if (found < into.length) throw this.#endsEarly(offsetBytes, what);
  }

  damaged(atByte: number, what: string): TorporError {
    return new TorporError(
      "snapshot.corrupt",
      `${this.#path} is damaged at byte ${atByte}: ${what}`,
    );
  }

  #endsEarly(offsetBytes: number, what: string): TorporError {
    return this.damaged(offsetBytes, `${what} should be there, but the file ends early`);
  }
}

async function readHeader(source: Source, virtualBytes: number): Promise<Qcow2Header> {
  const header = await source.read(0, headerBytes, "the header");
  const l1Count = l1Entries(virtualBytes);
  const known = [
    { name: "the magic number", atByte: 0, found: header.readUInt32BE(0), expected: magic },
    { name: "the version", atByte: 4, found: header.readUInt32BE(4), expected: version },
    { name: "incompatible features", atByte: 72, found: readNumber(header, 72), expected: 0 },
    { name: "the backing file's name", atByte: 8, found: readNumber(header, 8), expected: 0 },
    { name: "that name's length", atByte: 16, found: header.readUInt32BE(16), expected: 0 },
    { name: "cluster bits", atByte: 20, found: header.readUInt32BE(20), expected: clusterBits },
    { name: "the size", atByte: 24, found: readNumber(header, 24), expected: virtualBytes },
    { name: "encryption", atByte: 32, found: header.readUInt32BE(32), expected: 0 },
    { name: "L1 entries", atByte: 36, found: header.readUInt32BE(36), expected: l1Count },
    { name: "internal snapshots", atByte: 60, found: header.readUInt32BE(60), expected: 0 },
    { name: "refcount order", atByte: 96, found: header.readUInt32BE(96), expected: refcountOrder },
  ];
  for (const { name, atByte, found, expected } of known) {
    if (found === expected) continue;
    throw source.damaged(atByte, `${name} should be ${expected}, but is ${found}`);
  }
  return {
    virtualBytes,
    l1OffsetBytes: readNumber(header, 40),
    refcountTableOffsetBytes: readNumber(header, 48),
    refcountTableClusters: header.readUInt32BE(56),
  };
}

/** Reads all counters, and claims the header, the refcount table and its blocks. */
async function readClaims(source: Source, header: Qcow2Header): Promise<ClusterClaims> {
  const { refcountTableOffsetBytes: offsetBytes, refcountTableClusters } = header;
  const claims = new ClusterClaims(source.bytes);
  const blockCount = Math.min(
    refcountTableClusters * entriesPerCluster,
    Math.ceil(claims.clusters / countersPerCluster),
  );
  const table = await source.read(offsetBytes, blockCount * 8, "the refcount table");
  const blockOffsets: number[] = [];
  for (let index = 0; index < blockCount; index += 1) {
    const blockOffset = readNumber(table, index * 8);
    if (blockOffset === 0) continue;
    const block = await source.read(blockOffset, clusterBytes, "a refcount block");
    claims.addCounters(index * countersPerCluster, block);
    blockOffsets.push(blockOffset);
  }
  claimRow(source, claims, 0, 1, "the header");
  claimRow(source, claims, offsetBytes, refcountTableClusters, "the refcount table");
  for (const at of blockOffsets) claimRow(source, claims, at, 1, "a refcount block");
  return claims;
}

function claimRow(
  source: Source,
  claims: ClusterClaims,
  offsetBytes: number,
  clusters: number,
  what: string,
): void {
  for (let cluster = 0; cluster < clusters; cluster += 1) {
    const at = offsetBytes + cluster * clusterBytes;
    if (!claims.claim(at)) throw source.damaged(at, `${what} cannot be there`);
  }
}

/** Reads where each L2 table is, or `inherited`, and claims the tables' clusters. */
async function readL1(
  source: Source,
  { virtualBytes, l1OffsetBytes }: Qcow2Header,
  claims: ClusterClaims,
): Promise<Float64Array> {
  const count = l1Entries(virtualBytes);
  const table = await source.read(l1OffsetBytes, count * 8, "the L1 table");
  const clusters = Math.ceil(count / entriesPerCluster);
  claimRow(source, claims, l1OffsetBytes, clusters, "the L1 table");
  const l1 = decodeEntries(source, table, l1OffsetBytes, claims);
  if (l1.includes(zeroed)) throw source.damaged(l1OffsetBytes, "the L1 table has a reserved bit");
  return l1;
}

/** Decodes each entry of an L1 or L2 table, and claims the clusters they name. */
function decodeEntries(
  source: Source,
  table: Buffer,
  tableOffsetBytes: number,
  claims: ClusterClaims,
): Float64Array {
  const states = new Float64Array(table.length / 8);
  for (let index = 0; index < states.length; index += 1) {
    const high = table.readUInt32BE(index * 8);
    const low = table.readUInt32BE(index * 8 + 4);
    if (high === 0 && low === 0) continue;
    const offsetBytes = (high & offsetBitsHigh) * 2 ** 32 + ((low & offsetBitsLow) >>> 0);
    const isUsedOnce = high >= usedOnceBit;
    const isKnown = (high & reservedBitsHigh) === 0 && (low & reservedBitsLow) === 0;
    if (!isKnown || isUsedOnce !== (offsetBytes !== 0)) {
      const entry = `${hex(high)}${hex(low)}`;
      throw source.damaged(tableOffsetBytes + index * 8, `no table has an entry ${entry}`);
    }
    if (isUsedOnce && !claims.claim(offsetBytes)) {
      const what = `the entry names byte ${offsetBytes}, which is not its own`;
      throw source.damaged(tableOffsetBytes + index * 8, what);
    }
    // A zeroed cluster may keep its place in the file; the content there does not count.
    states[index] = (low & zeroedBit) === 0 ? offsetBytes : zeroed;
  }
  return states;
}

function hex(word: number): string {
  return word.toString(16).padStart(8, "0");
}

/** Rounds above 2^53, which is past the end of any file. */
function readNumber(bytes: Buffer, offset: number): number {
  return Number(bytes.readBigUInt64BE(offset));
}
