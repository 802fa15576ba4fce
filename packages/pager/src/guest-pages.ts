/**
 * The guest's pages, one by one: which are there, which were given back, and how a missing one is put
 * in its place.
 *
 * INVARIANT: a page that the guest gave back (a balloon does) is zeros from then on, never again what
 * was saved. The kernel tells of it before it takes the page away, and refuses to install any page until
 * it was told of, so what is asked for again meanwhile is answered with what holds afterwards.
 *
 * What is there is remembered to save calls, and never trusted where a guest waits: a page that is asked
 * for is always offered to the kernel, which says whether it was there.
 */
import { constants } from "node:os";
import type { FillResult, Userfaults } from "@torpor/native";
import { TorporError, assert } from "@torpor/std";
import { pageBytes } from "@torpor/storage";
import type { GuestRegions } from "./guest-regions.ts";
import type { PageRange, PageSource, Piece } from "./page-source.ts";

const { EAGAIN, EEXIST, EFAULT, ENOENT, ESRCH } = constants.errno;

/**
 * `done`: all of the range is there. `again`: not all, because the guest is giving memory back at this
 * moment; to be repeated. `gone`: the VM has ended.
 */
export type InstallResult = "done" | "again" | "gone";

/** The kernel, as far as it is asked here. */
export type PageFiller = Pick<Userfaults, "copy" | "zero" | "wake">;

export class GuestPages {
  readonly regions: GuestRegions;
  readonly #faults: PageFiller;
  readonly #source: PageSource;
  /** One for each page that is there. */
  readonly #present: Uint8Array;
  /** One for each page that was ever given back. */
  readonly #removed: Uint8Array;
  /** Of pages, over all of the VM's time; and of times that an install had to be repeated. */
  readonly counts = { copied: 0, zeroed: 0, removed: 0, retries: 0 };

  constructor(faults: PageFiller, regions: GuestRegions, source: PageSource) {
    this.#faults = faults;
    this.regions = regions;
    this.#source = source;
    this.#present = new Uint8Array(source.pageCount);
    this.#removed = new Uint8Array(source.pageCount);
  }

  /** The guest has given these addresses back. */
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

  /** Puts a page there that the guest waits for, and what of `around` is missing too. */
  installWanted(page: number, around: PageRange): InstallResult {
    this.#present[page] = 0;
    return this.install(around);
  }

  /**
   * Puts there what of `range` is not.
   * @throws snapshot.corrupt when it cannot be read; vmm.failed for what nobody foresaw.
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

  /** Whether a page is missing, and is more than zeros. @throws snapshot.corrupt */
  lacksBytes(page: number): boolean {
    if (this.#present[page] === 1 || this.#removed[page] === 1) return false;
    return this.#source.pieceAt(page, 1).kind === "bytes";
  }

  get presentCount(): number {
    let count = 0;
    for (const isPresent of this.#present) count += isPresent;
    return count;
  }

  get installedCount(): number {
    return this.counts.copied + this.counts.zeroed;
  }

  #pieceAt(page: number, pagesMax: number): Piece {
    if (this.#removed[page] === 1) return { kind: "zeros", pageCount: pagesMax };
    return this.#source.pieceAt(page, pagesMax);
  }

  /** Up to where pages are missing and were, or were not, given back like this one. */
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

  /** @returns How many pages are settled; the rest of the piece is asked for anew. */
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
        // Whoever waits for it need not wait any longer.
        this.#faults.wake(address, pageBytes);
        return 1;
      case EAGAIN:
        this.counts.retries += 1;
        return "again";
      case ESRCH:
        return "gone";
      case ENOENT:
        // Unmapped since: whoever waits shall find that out.
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
