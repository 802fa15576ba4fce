/**
 * The guest's pages, one by one: which are present, which were given back, and how a missing one is
 * installed.
 *
 * INVARIANT: a page that the guest gave back (a balloon does) is zeros from then on, never again
 * what was saved. The kernel reports this before it takes the page away, and refuses to install any
 * page until the report has been read. So the content of a page that is faulted on in between is
 * decided by the later state.
 *
 * The present pages are remembered to save calls, but never trusted where a guest waits: a page
 * that is faulted on is always offered to the kernel, which reports whether it was there.
 */
import { constants } from "node:os";
import type { FillResult, Userfaults } from "@torpor/native";
import { TorporError, assert } from "@torpor/std";
import { pageBytes } from "@torpor/storage";
import type { GuestRegions } from "./guest-regions.ts";
import type { PageRange, PageSource, Piece } from "./page-source.ts";

const { EAGAIN, EEXIST, EFAULT, ENOENT, ESRCH } = constants.errno;

/**
 * `done`: the whole range is present. `again`: not all of it, because the guest is giving memory
 * back at this moment; repeat the call. `gone`: the VM has ended.
 */
export type InstallResult = "done" | "again" | "gone";

/** The calls to the kernel that are needed here. */
export type PageFiller = Pick<Userfaults, "copy" | "zero" | "wake">;

/** The pages of one VM. */
export class GuestPages {
  readonly regions: GuestRegions;
  readonly #faults: PageFiller;
  readonly #source: PageSource;
  /** Holds 1 for each page that is present. */
  readonly #present: Uint8Array;
  /** Holds 1 for each page that was ever given back. */
  readonly #removed: Uint8Array;
  /**
   * Numbers of pages over the VM's whole run; `retries` counts installs that had to be repeated.
   */
  readonly counts = { copied: 0, zeroed: 0, removed: 0, retries: 0 };

  constructor(faults: PageFiller, regions: GuestRegions, source: PageSource) {
    this.#faults = faults;
    this.regions = regions;
    this.#source = source;
    this.#present = new Uint8Array(source.pageCount);
    this.#removed = new Uint8Array(source.pageCount);
  }

  /** Records that the guest has given these addresses back. */
  remove(start: number, end: number): void {
    for (let address = start; address < end;) {
      const firstPage = this.regions.pageAt(address);
      assert(firstPage !== undefined, "the kernel tells of registered memory only");
      const wanted = { firstPage, endPage: firstPage + (end - address) / pageBytes };
      const { endPage } = this.regions.pieceOf(wanted);
      this.#present.fill(0, firstPage, endPage);
      this.#removed.fill(1, firstPage, endPage);
      this.counts.removed += endPage - firstPage;
      address += (endPage - firstPage) * pageBytes;
    }
  }

  /** Installs a page that the guest waits for, and the missing pages of `around`. */
  installWanted(page: number, around: PageRange): InstallResult {
    this.#present[page] = 0;
    return this.install(around);
  }

  /**
   * Installs the missing pages of a range.
   * @throws snapshot.corrupt if they cannot be read; vmm.failed for an unexpected error.
   */
  install({ firstPage, endPage }: PageRange): InstallResult {
    for (let page = firstPage; page < endPage;) {
      if (this.#present[page] === 1) {
        page += 1;
        continue;
      }
      const { endPage: end, address } = this.regions.pieceOf({
        firstPage: page,
        endPage: this.#endOfLike(page, endPage),
      });
      if (end === page) return "done"; // beyond the guest's memory
      const piece = this.#pieceAt(page, end - page);
      const filled = this.#fill(address, piece);
      const result = this.#take(page, address, piece, filled);
      if (typeof result !== "number") return result;
      page += result;
    }
    return "done";
  }

  /** Whether a page is missing and its content is more than zeros. @throws snapshot.corrupt */
  lacksBytes(page: number): boolean {
    if (this.#present[page] === 1 || this.#removed[page] === 1) return false;
    return this.#source.pieceAt(page, 1).kind === "bytes";
  }

  /** Pages that are present now. */
  get presentCount(): number {
    let count = 0;
    for (const isPresent of this.#present) count += isPresent;
    return count;
  }

  /** Pages that were installed so far, with content or as zeros. */
  get installedCount(): number {
    return this.counts.copied + this.counts.zeroed;
  }

  #pieceAt(page: number, pagesMax: number): Piece {
    if (this.#removed[page] === 1) return { kind: "zeros", pageCount: pagesMax };
    return this.#source.pieceAt(page, pagesMax);
  }

  /** The end of the missing pages from `page` on that, like it, were or were not given back. */
  #endOfLike(page: number, endMax: number): number {
    let end = page + 1;
    while (end < endMax && this.#present[end] === 0 && this.#removed[end] === this.#removed[page]) {
      end += 1;
    }
    return end;
  }

  #fill(address: number, piece: Piece): FillResult {
    const lengthBytes = piece.pageCount * pageBytes;
    if (piece.kind === "zeros") return this.#faults.zero(address, lengthBytes);
    return this.#faults.copy(address, piece.address, lengthBytes);
  }

  /** @returns How many pages are settled; the caller continues with the remainder of the piece. */
  #take(
    page: number,
    address: number,
    piece: Piece,
    { doneBytes, errno }: FillResult,
  ): number | InstallResult {
    if (doneBytes > 0) {
      const pages = doneBytes / pageBytes;
      this.#present.fill(1, page, page + pages);
      if (piece.kind === "zeros") this.counts.zeroed += pages;
      else this.counts.copied += pages;
      return pages;
    }
    switch (errno) {
      case EEXIST:
        this.#present[page] = 1;
        // A thread that waits for it need not wait any longer.
        this.#faults.wake(address, pageBytes);
        return 1;
      case EAGAIN:
        this.counts.retries += 1;
        return "again";
      case ESRCH:
        return "gone";
      case ENOENT:
        // Unmapped in the meantime: wake the waiting thread, so that it finds out.
        this.#faults.wake(address, pageBytes);
        return 1;
      case EFAULT:
        throw new TorporError("snapshot.corrupt", `page ${page} of memory cannot be read any more`);
      case undefined:
      default:
        throw new TorporError("vmm.failed", `the kernel refused page ${page}: errno ${errno}`);
    }
  }
}
