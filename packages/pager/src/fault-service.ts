/**
 * Handles a guest's page faults until its VM ends, and fetches pages ahead while no thread waits.
 *
 * A round:
 *
 *   1. read      all messages that the kernel has, to the last
 *   2. remove    what the guest gave back is zeros from here on
 *   3. install   every page that is waited for; a refused one is retried in the next round
 *   4. prefetch  one step, if no thread waits
 *   5. watch     until there is something to do
 *
 * ORDER: 2 before 3, whatever the order of the messages: the fault on a page that was touched after
 * it was given back may arrive before the message that it was given back. While a message is unread
 * the kernel refuses to install (EAGAIN), and it reports a fault only once; so refused pages are
 * remembered here, and the watch is short while there are any.
 *
 * INVARIANT: a thread that waits for a page gets it, or this throws and the VM is ended. No fault
 * is skipped.
 */
import type { UserfaultEvent, Userfaults } from "@torpor/native";
import { TorporError } from "@torpor/std";
import type { GuestPages } from "./guest-pages.ts";
import type { PageRange } from "./page-source.ts";
import { type Prefetch, batchPages } from "./prefetch.ts";
import type { Watch } from "./watch.ts";

/** How soon an install that the kernel refused is retried. */
const retryMs = 1;
/**
 * LIMIT: a guest gives a range back in microseconds; a refusal that lasts this long will never end.
 */
const refusedMsMax = 20_000;
/**
 * A guest that faults without end must not delay the daemon's orders: the watch is asked after so
 * many rounds.
 */
const roundsBetweenTurns = 64;
/** The kernel's queue is read again until a read returns fewer events than it could. */
const wholeReadEvents = 64;

/** The main loop of a pager, for one VM. */
export class FaultService {
  readonly #faults: Userfaults;
  readonly #pages: GuestPages;
  readonly #prefetch: Prefetch;
  readonly #watch: Watch;
  /** Pages that a thread of the guest waits for. */
  readonly #wanted = new Set<number>();
  #refusedSinceMonoMs: number | undefined;
  #faultCount = 0;
  #ended = false;
  /** Holds 1 for each page that was faulted on, while touches are recorded. */
  #touched: Uint8Array | undefined;
  #aroundPages = 1;

  constructor(faults: Userfaults, pages: GuestPages, prefetch: Prefetch, watch: Watch) {
    this.#faults = faults;
    this.#pages = pages;
    this.#prefetch = prefetch;
    this.#watch = watch;
  }

  /** Number of page faults so far. */
  get faultCount(): number {
    return this.#faultCount;
  }

  /** Marks every page that is faulted on in `touched`; undefined ends the recording. */
  recordInto(touched: Uint8Array | undefined): void {
    this.#touched = touched;
  }

  /** From here on a fault also brings the 256 KiB around it. */
  widen(): void {
    this.#aroundPages = batchPages;
  }

  /** Makes `run` return, because the VM is gone. */
  end(): void {
    this.#ended = true;
  }

  /**
   * Runs until `end` is called or the VM has ended.
   * @throws snapshot.corrupt, vmm.failed: the guest cannot continue.
   */
  run(): void {
    for (let round = 0; !this.#ended; round += 1) {
      const found = this.#read();
      this.#installWanted();
      if (this.#wanted.size === 0 && this.#prefetch.step() === "gone") return;
      if (!found && !this.#ended) this.#watch.turn(this.#waitMs());
      else if (round % roundsBetweenTurns === 0) this.#watch.turn(0);
    }
  }

  /** @returns Whether there was any event. */
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
