/**
 * Answers a guest's page faults until its VM ends, and fetches pages ahead while none waits.
 *
 * A round:
 *
 *   1. read      all that the kernel has to tell, to the last message
 *   2. remove    what the guest gave back is zeros from here on
 *   3. install   every page that is waited for; what the kernel does not take yet waits for the next round
 *   4. prefetch  one step, if nobody waits
 *   5. watch     until there is something to do
 *
 * ORDER: 2 before 3, whatever the order of the messages: a page that was touched after it was given back
 * may be asked for before the kernel tells of the giving back. While something is unread the kernel
 * refuses to install (EAGAIN), and it tells of a fault once only; so who was refused is remembered here,
 * and the watch is short while anybody is.
 *
 * INVARIANT: whoever waits for a page gets it, or this throws and the VM is ended. Nothing is passed over.
 */
import type { UserfaultEvent, Userfaults } from "@torpor/native";
import { TorporError } from "@torpor/std";
import type { GuestPages } from "./guest-pages.ts";
import type { PageRange } from "./page-source.ts";
import { type Prefetch, batchPages } from "./prefetch.ts";
import type { Watch } from "./watch.ts";

/** How soon the kernel is asked again what it refused. */
const retryMs = 1;
/** LIMIT: a guest gives a range back in microseconds; for as long as this only if it never will. */
const refusedMsMax = 20_000;
/** A guest that asks without end shall not keep the daemon's orders waiting. */
const roundsBetweenTurns = 64;
/** The kernel's queue is read again until it gives less than it could. */
const wholeReadEvents = 64;

export class FaultService {
  readonly #faults: Userfaults;
  readonly #pages: GuestPages;
  readonly #prefetch: Prefetch;
  readonly #watch: Watch;
  /** Pages that somebody waits for. */
  readonly #wanted = new Set<number>();
  #refusedSinceMonoMs: number | undefined;
  #faultCount = 0;
  #ended = false;
  /** One for each page that was asked for, while that is of interest. */
  #touched: Uint8Array | undefined;
  #aroundPages = 1;

  constructor(faults: Userfaults, pages: GuestPages, prefetch: Prefetch, watch: Watch) {
    this.#faults = faults;
    this.#pages = pages;
    this.#prefetch = prefetch;
    this.#watch = watch;
  }

  get faultCount(): number {
    return this.#faultCount;
  }

  /** Marks in there every page that is asked for, until it is told undefined. */
  recordInto(touched: Uint8Array | undefined): void {
    this.#touched = touched;
  }

  /** A fault brings its 256 KiB from here on. */
  widen(): void {
    this.#aroundPages = batchPages;
  }

  /** The VM is gone: `run` returns. */
  end(): void {
    this.#ended = true;
  }

  /** @throws snapshot.corrupt, vmm.failed: the guest cannot go on. */
  run(): void {
    for (let round = 0; !this.#ended; round += 1) {
      const found = this.#read();
      this.#installWanted();
      if (this.#wanted.size === 0 && this.#prefetch.step() === "gone") return;
      if (!found && !this.#ended) this.#watch.turn(this.#waitMs());
      else if (round % roundsBetweenTurns === 0) this.#watch.turn(0);
    }
  }

  /** @returns Whether there was anything. */
  #read(): boolean {
    let events = this.#faults.read();
    const found = events.length > 0;
    for (; events.length > 0; events = this.#faults.read()) {
      for (const event of events) this.#take(event);
      if (events.length < wholeReadEvents) break;
    }
    return found;
  }

  #take(event: UserfaultEvent): void {
    switch (event.kind) {
      case "remove":
        this.#pages.remove(event.start, event.end);
        return;
      case "fault":
        this.#want(event.address);
        return;
      case "other":
      default:
        throw new TorporError("vmm.failed", `the kernel told of event ${event.event}`);
    }
  }

  #want(address: number): void {
    const page = this.#pages.regions.pageAt(address);
    if (page === undefined) {
      throw new TorporError("vmm.failed", "a page was asked for that is not the guest's");
    }
    this.#faultCount += 1;
    this.#wanted.add(page);
    if (this.#touched !== undefined) this.#touched[page] = 1;
  }

  #installWanted(): void {
    let refused = false;
    for (const page of this.#wanted) {
      const result = this.#pages.installWanted(page, this.#around(page));
      if (result === "gone") {
        this.#ended = true;
        return;
      }
      if (result === "done") this.#wanted.delete(page);
      else refused = true;
    }
    if (!refused) {
      this.#refusedSinceMonoMs = undefined;
      return;
    }
    this.#refusedSinceMonoMs ??= performance.now();
    if (performance.now() - this.#refusedSinceMonoMs > refusedMsMax) {
      throw new TorporError("vmm.failed", "the kernel takes no page that the guest waits for");
    }
  }

  #around(page: number): PageRange {
    const firstPage = page - (page % this.#aroundPages);
    return { firstPage, endPage: firstPage + this.#aroundPages };
  }

  #waitMs(): number {
    const forPrefetch = this.#prefetch.waitMs ?? -1;
    return this.#wanted.size > 0 ? retryMs : forPrefetch;
  }
}
