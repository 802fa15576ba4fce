/** What a thread of a paged guest is told to do, and what it tells afterwards. */

/** Memory of the guest: its part of the saved memory, and where the process has it. */
export interface GuestRegion {
  readonly address: number;
  readonly offset: number;
  readonly size: number;
}

export interface TouchTask {
  readonly kind: "touch";
  /** Pages, in the order they are touched. */
  readonly pages: readonly number[] | { readonly firstPage: number; readonly endPage: number };
  /** Compares every page with this file; without it a page is touched only. */
  readonly truthPath?: string;
}

/** Gives random ranges back, again and again, and looks what is there then. */
export interface StormTask {
  readonly kind: "storm";
  readonly firstPage: number;
  readonly endPage: number;
  readonly rounds: number;
  readonly seed: number;
  readonly truthPath: string;
}

export type GuestTask = TouchTask | StormTask;

export interface TaskResult {
  readonly tookMs: number;
  /** Since the memory was offered to the pager, that is since a VM would begin to wake. */
  readonly sinceStartMs: number;
  readonly touchedPages: number;
  /** Whose content was not what it should be; the first few. */
  readonly wrongPages: readonly number[];
}
