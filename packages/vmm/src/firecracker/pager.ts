/**
 * The parts of a pager that a driver needs. It is a process that gives a restored VM its pages when
 * it touches them, over a userfaultfd, instead of a file that has them all. The caller that starts
 * a VM supplies it, see `VmSpec`.
 *
 * In the process list a pager is recognised by its name, and by the run's folder as its last
 * argument.
 */
import type { Deadline, MemoryRange, TorporError } from "@torpor/std";

/** The first argument of a pager's command line. */
export const pagerProcessName = "torpor-pager";

/** Where a pager is to serve its VM. */
export interface PagerPlace {
  readonly runFolder: string;
  /** Where the VMM connects to, in a folder that nobody else can reach. */
  readonly socketPath: string;
  /** The VMM's user, which is to own the socket. */
  readonly userId: number;
}

/** The memory with which the VM was loaded, without the VM's own changes. */
export interface PagedMemory {
  /** Ranges that may differ from the image, ascending. */
  readonly ranges: readonly MemoryRange[];
  /** Fills `into`, which must be whole pages. */
  read(offsetBytes: number, into: Uint8Array): void;
}

/** A running pager. */
export interface Pager {
  readonly pid: number;
  readonly memory: PagedMemory;
  /**
   * Settles when it stops serving: with the reason, or with undefined if its VM has ended. A VM
   * that ran on would hang. Never rejects; never settles after `release`.
   */
  readonly ended: Promise<TorporError | undefined>;
  /** Ends the pager; call it after the VM has ended, or if none has connected. Safe to repeat. */
  end(deadline: Deadline): Promise<void>;
  /** Detaches from the process, which keeps running. */
  release(): void;
}

/**
 * Starts a pager; returns once it listens.
 * @throws snapshot.corrupt if the memory cannot be served
 */
export type StartPager = (place: PagerPlace, deadline: Deadline) => Promise<Pager>;

/**
 * Connects to the pager of a running VM.
 * @throws vmm.failed if it is gone: the caller must end the VM
 */
export type AdoptPager = (runFolder: string, deadline: Deadline) => Promise<Pager>;
