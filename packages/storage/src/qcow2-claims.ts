/**
 * Tracks which clusters of a qcow2 file may still hold what an entry says they hold.
 *
 * A layer without internal snapshots uses each cluster once, and its counters say so. Every entry
 * that names a cluster claims it, and only one claim for a cluster succeeds: this detects an entry
 * that a flipped bit made point between clusters, past the end of the file, to a free cluster or to
 * one in use.
 */
import { clusterBytes } from "./qcow2-format.ts";

/** The clusters of one file that are in use and not claimed yet. */
export class ClusterClaims {
  /** A byte for each whole cluster of the file: 1 while it is counted once and not claimed. */
  readonly #free: Uint8Array;

  constructor(fileBytes: number) {
    this.#free = new Uint8Array(Math.floor(fileBytes / clusterBytes));
  }

  get clusters(): number {
    return this.#free.length;
  }

  /** Adds the counters of one refcount block, the first of which counts `firstCluster`. */
  addCounters(firstCluster: number, block: Buffer): void {
    const end = Math.min(firstCluster + block.length / 2, this.#free.length);
    for (let cluster = firstCluster; cluster < end; cluster += 1) {
      if (block.readUInt16BE((cluster - firstCluster) * 2) === 1) this.#free[cluster] = 1;
    }
  }

  /** Claims the cluster at `offsetBytes`. @returns whether it exists and is this entry's alone. */
  claim(offsetBytes: number): boolean {
    // The array holds nothing for an offset outside the file or between clusters.
    const cluster = offsetBytes / clusterBytes;
    if (this.#free[cluster] !== 1) return false;
    this.#free[cluster] = 0;
    return true;
  }
}
