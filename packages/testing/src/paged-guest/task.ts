/** The tasks of a paged guest's threads, and their reports. */

/** A region of the guest: its part of the saved memory, and its address in the process. */
export interface GuestRegion {
  readonly address: number;
  readonly offset: number;
  readonly size: number;
}

/** Touches pages once. */
export interface TouchTask {
  readonly kind: "touch";
  /** The pages, in the order they are touched. */
  readonly pages: readonly number[] | { readonly firstPage: number; readonly endPage: number };
  /** A file to compare every page with; without it pages are only touched. */
  readonly truthPath?: string;
}

/** Discards random ranges, again and again, and checks their content then. */
export interface StormTask {
  readonly kind: "storm";
  readonly firstPage: number;
  readonly endPage: number;
  readonly rounds: number;
  readonly seed: number;
  readonly truthPath: string;
}

/** A task for one thread. */
export type GuestTask = TouchTask | StormTask;

/** A thread's report of its task. */
export interface TaskResult {
  readonly tookMs: number;
  /** Since the memory was offered to the pager, which is when a VM would begin to wake. */
  readonly sinceStartMs: number;
  readonly touchedPages: number;
  /** Pages with wrong content; the first few. */
  readonly wrongPages: readonly number[];
}
