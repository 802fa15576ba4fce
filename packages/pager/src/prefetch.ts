/**
 * Installs pages before the guest faults on them, in three phases:
 *
 *   workingSet    what an earlier wake touched, as fast as possible, zeros included
 *   newestLayer   what the last pause wrote, which was in use then; bytes only
 *   rest          everything, in order; bytes only
 *
 * The last two are throttled, because they compete with working guests, and they make memory
 * resident that a guest may never use; so the mode `workingSet` ends after the first. Zeros are
 * left out of them: they cost little when the guest faults on them.
 *
 * A step is short, and between two steps the pages that the guest waits for are installed.
 *
 * The disk is asked for the working set before there is a VM: its pages are scattered, and a disk
 * is faster when it has many requests at once than when it gets them one after the other. The pages
 * that it has read by then are mapped, too.
 */
import { assert } from "@torpor/std";
import { pageBytes } from "@torpor/storage";
import type { GuestPages, InstallResult } from "./guest-pages.ts";
import type { PageRange, PageSource } from "./page-source.ts";

/** How much to fetch: nothing, the first phase, or all phases. */
export const prefetchModes = ["off", "workingSet", "all"] as const;
/** One of `prefetchModes`. */
export type PrefetchMode = (typeof prefetchModes)[number];
/** A phase of the prefetch; `done` after the last one. */
export type PrefetchPhase = "workingSet" | "newestLayer" | "rest" | "done";

/** 256 KiB: copies of that size are as fast as larger ones, and a fault waits for one at most. */
export const batchPages = 64;
/** LIMIT: batches with nothing to do in one step; some milliseconds. */
const emptyBatchesMax = 256;
/** LIMIT: batches that the disk is asked to read ahead; 32 MiB if they are whole. */
const aheadBatches = 128;
/**
 * LIMIT: the same in one piece of the preparation, while other work may wait; some tenths of a
 * millisecond.
 */
const meanwhileBatches = 16;
/** LIMIT: rate of the throttled phases; a fraction of what a disk or a copy in memory reaches. */
const throttledBytesPerMs = (256 * 1024 * 1024) / 1000;

interface Phase {
  readonly name: PrefetchPhase;
  readonly batches: readonly PageRange[];
}

/** Fetches the pages of one VM ahead, step by step. */
export class Prefetch {
  readonly #pages: GuestPages;
  readonly #source: PageSource;
  readonly #phases: readonly Phase[];
  readonly #onPhase: () => void;
  #phaseIndex = 0;
  #nextBatch = 0;
  #aheadBatch = 0;
  #dueMonoMs = 0;
  #pageCount = 0;
  /** Whether more than the working set may be fetched now. */
  #goesOn = true;

  /** @param onPhase Called when a phase has ended and the next has begun. */
  constructor(
    pages: GuestPages,
    source: PageSource,
    mode: PrefetchMode,
    workingSet: readonly PageRange[],
    onPhase: () => void,
  ) {
    this.#pages = pages;
    this.#source = source;
    this.#onPhase = onPhase;
    const all = [{ firstPage: 0, endPage: source.pageCount }];
    this.#phases = [
      { name: "workingSet", batches: mode === "off" ? [] : batchesOf(workingSet) },
      { name: "newestLayer", batches: mode === "all" ? batchesOf(source.newestPages) : [] },
      { name: "rest", batches: mode === "all" ? batchesOf(all) : [] },
    ];
    this.#skipEmptyPhases();
  }

  get phase(): PrefetchPhase {
    return this.#phases[this.#phaseIndex]?.name ?? "done";
  }

  /** Pages that were installed before the guest faulted on them. */
  get pageCount(): number {
    return this.#pageCount;
  }

  /**
   * Fetches nothing beyond the working set until `goOn`: touches of fetched pages could not be
   * seen.
   */
  holdBack(): void {
    this.#goesOn = false;
  }

  /** Lifts `holdBack`. */
  goOn(): void {
    this.#goesOn = true;
  }

  /** Milliseconds until the next step is due; undefined if none is. */
  get waitMs(): number | undefined {
    if (this.phase === "done") return undefined;
    if (this.phase === "workingSet") return 0;
    return this.#goesOn ? Math.max(0, this.#dueMonoMs - performance.now()) : undefined;
  }

  /** Installs about a batch, if one is due. @throws snapshot.corrupt, vmm.failed */
  step(): InstallResult {
    if (this.waitMs !== 0) return "done";
    const before = this.#pages.installedCount;
    let result: InstallResult = "done";
    for (let batches = 0; batches < emptyBatchesMax && result === "done"; batches += 1) {
      const phase = this.#phases[this.#phaseIndex];
      const batch = phase?.batches[this.#nextBatch];
      assert(
        phase !== undefined && batch !== undefined,
        "a phase that is not done has a batch left",
      );
      this.#readAhead(phase);
      result = phase.name === "workingSet" ? this.#pages.install(batch) : this.#installBytes(batch);
      if (result === "done") this.#advance(phase);
      const isEnough = this.#pages.installedCount - before >= batchPages;
      if (isEnough || this.phase !== phase.name) break;
    }
    const pages = this.#pages.installedCount - before;
    this.#pageCount += pages;
    this.#dueMonoMs = performance.now() + (pages * pageBytes) / throttledBytesPerMs;
    return result;
  }

  #installBytes({ firstPage, endPage }: PageRange): InstallResult {
    for (let page = firstPage; page < endPage; page += 1) {
      if (!this.#pages.lacksBytes(page)) continue;
      let end = page + 1;
      while (end < endPage && this.#pages.lacksBytes(end)) end += 1;
      const result = this.#pages.install({ firstPage: page, endPage: end });
      if (result !== "done") return result;
      page = end;
    }
    return "done";
  }

  #advance({ batches }: Phase): void {
    this.#nextBatch += 1;
    if (this.#nextBatch < batches.length) return;
    this.#phaseIndex += 1;
    this.#nextBatch = 0;
    this.#aheadBatch = 0;
    this.#skipEmptyPhases();
    this.#onPhase();
  }

  #skipEmptyPhases(): void {
    while (this.#phases[this.#phaseIndex]?.batches.length === 0) this.#phaseIndex += 1;
  }

  /** Requests a few batches before they are copied, so that the disk works meanwhile. */
  #readAhead({ name, batches }: Phase): void {
    if (name === "workingSet") return; // requested before the VM connected
    const end = Math.min(this.#nextBatch + aheadBatches, batches.length);
    for (; this.#aheadBatch < end; this.#aheadBatch += 1) {
      const batch = batches[this.#aheadBatch];
      if (batch !== undefined) this.#source.readAhead(batch);
    }
  }
}

/**
 * Prepares pages before there is a VM: asks the disk for all of them, and then maps them, so that
 * only the copying is left.
 * @param isTimeLeft Checked before each batch is mapped; false ends the work.
 * @returns A function that does one piece of the work with each call, until it returns false.
 */
export function prepareInPieces(
  source: PageSource,
  pages: readonly PageRange[],
  isTimeLeft: () => boolean,
): () => boolean {
  const work = prepare(source, batchesOf(pages), isTimeLeft);
  return () => work.next().done !== true;
}

function* prepare(
  source: PageSource,
  batches: readonly PageRange[],
  isTimeLeft: () => boolean,
): Generator<void> {
  for (const [index, batch] of batches.entries()) {
    source.readAhead(batch);
    if (index % meanwhileBatches === meanwhileBatches - 1) yield;
  }
  for (const batch of batches) {
    if (!isTimeLeft()) return;
    source.mapAhead(batch);
    yield;
  }
}

function batchesOf(ranges: readonly PageRange[]): readonly PageRange[] {
  const batches: PageRange[] = [];
  for (const { firstPage, endPage } of ranges) {
    for (let page = firstPage; page < endPage; page += batchPages) {
      batches.push({ firstPage: page, endPage: Math.min(page + batchPages, endPage) });
    }
  }
  return batches;
}
