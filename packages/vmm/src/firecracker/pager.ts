/**
 * What a driver needs of a pager: a process that gives a restored VM its pages when it touches them, over
 * a userfaultfd, instead of a file that has them all. Who starts a VM brings it along, see `VmSpec`.
 *
 * It is known in the process list by its name, and by the run's folder as its last argument.
 */
import type { Deadline, MemoryRange, TorporError } from "@torpor/std";

/** The first word of its command line. */
export const pagerProcessName = "torpor-pager";

export interface PagerPlace {
  readonly runFolder: string;
  /** Where the VMM connects to, in a folder that nobody else can reach. */
  readonly socketPath: string;
  /** Of the VMM, which is to own the socket. */
  readonly userId: number;
}

/** What the VM was loaded with: as it is without what the VM changed. */
export interface PagedMemory {
  /** What may differ from the image, ascending. */
  readonly ranges: readonly MemoryRange[];
  /** Whole pages. */
  read(offsetBytes: number, into: Uint8Array): void;
}

export interface Pager {
  readonly pid: number;
  readonly memory: PagedMemory;
  /**
   * Settles when it serves no more: with the reason, or undefined when that is the end of its VM. One
   * that went on would hang. Never rejects; never settles after `release`.
   */
  readonly ended: Promise<TorporError | undefined>;
  /** Safe to repeat; after the VM has ended, or if none has come. */
  end(deadline: Deadline): Promise<void>;
  /** Lets go of the process, which runs on. */
  release(): void;
}

/** Returns once it listens. @throws snapshot.corrupt when the memory cannot be served */
export type StartPager = (place: PagerPlace, deadline: Deadline) => Promise<Pager>;

/** @throws vmm.failed when there is none any more: the VM is to be ended */
export type AdoptPager = (runFolder: string, deadline: Deadline) => Promise<Pager>;
