/**
 * What this driver needs of a pager: a process that gives a restored VM its pages when it touches them,
 * over a userfaultfd, instead of a file that has them all.
 */
import type { Deadline } from "@torpor/std";
import type { MemoryContent } from "../driver.ts";

export interface PagedMemory {
  /** The template's, below all else. */
  readonly imagePath: string;
  readonly sizeBytes: number;
  /** Undefined when it is the image's. */
  readonly content: MemoryContent | undefined;
  /** Where Firecracker connects to, in a folder that belongs to `userId`. */
  readonly socketPath: string;
  readonly userId: number;
}

export interface Pager {
  /** Settles when it serves no more, for whatever reason: a VM that goes on would hang. Never rejects. */
  readonly ended: Promise<void>;
  /** What it serves, for comparing with: as it is without what the VM changed. */
  read(offsetBytes: number, into: Uint8Array): void;
  /** Safe to repeat; after the VM has ended. */
  end(deadline: Deadline): Promise<void>;
}

/** Returns once it listens. */
export type StartPager = (memory: PagedMemory, deadline: Deadline) => Promise<Pager>;
