/**
 * Which clusters of a qcow2 file may still be believed to hold what an entry says they hold.
 *
 * A layer without internal snapshots uses each cluster once, and its counters say so. Every entry that
 * names a cluster claims it, and a cluster is given out once: an entry that a flipped bit made point
 * between clusters, past the end of the file, to a free cluster or to one in use is found out.
 */
import { clusterBytes } from "./qcow2-format.ts";

export class ClusterClaims {
  /** A byte for each whole cluster of the file: 1 while it is counted once and not claimed. */
  readonly #free: Uint8Array;

  constructor(fileBytes: number) {
    this.#free = new Uint8Array(Math.floor(fileBytes / clusterBytes));
  }

  get clusters(): number {
    return this.#free.length;
  }

  /** Takes the counters of one refcount block, of which the first counts `firstCluster`. */
  addCounters(firstCluster: number, block: Buffer): void {
    const end = Math.min(firstCluster + block.length / 2, this.#free.length);
    for (let cluster = firstCluster; cluster < end; cluster += 1) {
      if (block.readUInt16BE((cluster - firstCluster) * 2) === 1) this.#free[cluster] = 1;
    }
  }

  /** @returns whether the cluster at `offsetBytes` exists and is this entry's alone. */
  claim(offsetBytes: number): boolean {
    // Outside the file, and between clusters, the array holds nothing.
    const cluster = offsetBytes / clusterBytes;
    if (this.#free[cluster] !== 1) return false;
    this.#free[cluster] = 0;
    return true;
  }
}
