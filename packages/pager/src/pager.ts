/**
 * A pager's life, from its start to the end of its VM:
 *
 *   1. open the line to the daemon, and the saved memory
 *   2. wait for the VMM to describe its memory; until then read the working set and map it
 *   3. handle page faults, and fetch ahead, until the VM has ended
 *
 * INVARIANT: no VM outlives its pager. Whatever ends the pager ends the VM that has connected: a
 * guest that waits for a page nobody brings would hang for ever, and a page that cannot be read
 * must not be replaced by another.
 */
import { Userfaults, killByPidfd } from "@torpor/native";
import { Deadline, TorporError, systemCode } from "@torpor/std";
import { pageBytes } from "@torpor/storage";
import { FaultService } from "./fault-service.ts";
import { GuestPages } from "./guest-pages.ts";
import { type ConnectedVm, type VmMemory, VmSocket } from "./handshake.ts";
import { type PagerOptions, linePath } from "./pager-options.ts";
import type { PagerStatus } from "./pager-status.ts";
import { SavedMemory } from "./page-source.ts";
import { Prefetch, prepareInPieces } from "./prefetch.ts";
import { type Order, StatusLine } from "./status-line.ts";
import { Watch } from "./watch.ts";
import {
  type WorkingSet,
  countPages,
  readWorkingSet,
  workingSetOf,
  writeWorkingSet,
} from "./working-set.ts";

/** The parts that exist once the VMM has described its memory. */
interface Service {
  readonly faults: FaultService;
  readonly pages: GuestPages;
  readonly prefetch: Prefetch;
}

/** One pager, in its own process. */
export class Pager {
  readonly #options: PagerOptions;
  readonly #watch = new Watch();
  readonly #workingSet: WorkingSet;
  readonly #touched: Uint8Array;
  #remark = "";
  #isRecording = false;
  #recordedPages = -1;
  #vm: ConnectedVm | undefined;
  #service: Service | undefined;
  #ended = false;
  #line: StatusLine | undefined;

  constructor(options: PagerOptions) {
    this.#options = options;
    const { sizeBytes } = options.memory;
    this.#workingSet = this.#readWorkingSet(sizeBytes) ?? { sizeBytes, ranges: [] };
    this.#touched = new Uint8Array(sizeBytes / pageBytes);
  }

  /**
   * Returns when the VM has ended, or when the daemon has ordered the end.
   * @param line Takes over the line to the daemon, which stays open until `line` is disposed of.
   * @throws snapshot.corrupt, vmm.failed, deadline.exceeded; the VM is ended by then.
   */
  async run(line: DisposableStack): Promise<void> {
    const { memory, runFolder, prefetch } = this.#options;
    await using undo = new AsyncDisposableStack();
    const source = undo.use(await SavedMemory.open(memory));
    this.#line = line.use(this.#openLine(runFolder));
    // The VMM takes a while to connect.
    if (prefetch !== "off") {
      const isTimeLeft = (): boolean => this.#vm === undefined;
      this.#watch.meanwhile(prepareInPieces(source, this.#workingSet.ranges, isTimeLeft));
    }
    using descriptors = new DisposableStack();
    try {
      const vm = this.#receiveVm(descriptors);
      if (vm !== undefined) this.#serve(vm, source, descriptors);
    } finally {
      // Does no harm to a VM that has ended.
      if (this.#vm !== undefined) killByPidfd(this.#vm.pidfd);
    }
  }

  #openLine(runFolder: string): StatusLine {
    const status = (): PagerStatus => this.#status();
    return new StatusLine(linePath(runFolder), this.#watch, status, (order) => this.#obey(order));
  }

  /** @returns undefined if the daemon ordered the end first. */
  #receiveVm(undo: DisposableStack): VmMemory | undefined {
    const { vmSocketPath, vmUserId, memory, connectBudgetMs } = this.#options;
    using socket = new VmSocket(vmSocketPath, vmUserId);
    const deadline = Deadline.after(connectBudgetMs, "waiting for the VMM to connect");
    const isWanted = (): boolean => !this.#ended;
    const onConnected = (vm: ConnectedVm): void => {
      this.#vm = vm;
      undo.use(this.#watch.add(vm.pidfd, () => this.#end()));
    };
    return socket.receive(memory.sizeBytes, this.#watch, undo, isWanted, onConnected, deadline);
  }

  #serve({ userfaultfd, regions }: VmMemory, source: SavedMemory, undo: DisposableStack): void {
    const { prefetch: mode, recordPath } = this.#options;
    const userfaults = new Userfaults(userfaultfd);
    const pages = new GuestPages(userfaults, regions, source);
    const { ranges } = this.#workingSet;
    const prefetch = new Prefetch(pages, source, mode, ranges, () => this.#line?.tell());
    const faults = new FaultService(userfaults, pages, prefetch, this.#watch);
    this.#service = { faults, pages, prefetch };
    undo.use(this.#watch.add(userfaultfd, () => undefined));
    if (recordPath === undefined) {
      this.#stopRecording();
    } else {
      // Touches of fetched pages are not seen: keep those of the old working set in the new one,
      // and fetch no others.
      for (const { firstPage, endPage } of ranges) this.#touched.fill(1, firstPage, endPage);
      prefetch.holdBack();
      faults.recordInto(this.#touched);
      this.#isRecording = true;
    }
    this.#line?.tell();
    if (!this.#ended) faults.run();
  }

  #obey(order: Exclude<Order, "tell">): void {
    if (order === "end") this.#end();
    else this.#saveWorkingSet();
  }

  #end(): void {
    this.#ended = true;
    this.#service?.faults.end();
  }

  /** A working set that cannot be written costs the next wake some time, and this one nothing. */
  #saveWorkingSet(): void {
    const { recordPath } = this.#options;
    if (recordPath !== undefined && this.#service !== undefined) {
      const workingSet = workingSetOf(this.#touched);
      try {
        writeWorkingSet(recordPath, workingSet);
        this.#recordedPages = countPages(workingSet);
      } catch (cause) {
        this.#remark = TorporError.from(cause, "storage.failed").rawMessage;
      }
      this.#stopRecording();
    }
    this.#line?.tell();
  }

  #stopRecording(): void {
    this.#isRecording = false;
    this.#service?.faults.recordInto(undefined);
    this.#service?.prefetch.goOn();
    if (this.#options.wideFaults === true) this.#service?.faults.widen();
  }

  #readWorkingSet(sizeBytes: number): WorkingSet | undefined {
    const { workingSetPath } = this.#options;
    if (workingSetPath === undefined) return undefined;
    try {
      return readWorkingSet(workingSetPath, sizeBytes);
    } catch (cause) {
      if (systemCode(cause) === "ENOENT") return undefined;
      this.#remark = TorporError.from(cause, "storage.failed").rawMessage;
      return undefined;
    }
  }

  #status(): PagerStatus {
    const { faults, pages, prefetch } = this.#service ?? {};
    return {
      state: this.#service === undefined ? "listening" : "serving",
      pid: process.pid,
      vmPid: this.#vm?.pid ?? 0,
      memoryPages: this.#touched.length,
      presentPages: pages?.presentCount ?? 0,
      faults: faults?.faultCount ?? 0,
      copiedPages: pages?.counts.copied ?? 0,
      zeroPages: pages?.counts.zeroed ?? 0,
      removedPages: pages?.counts.removed ?? 0,
      retries: pages?.counts.retries ?? 0,
      prefetchPhase: prefetch?.phase ?? "workingSet",
      prefetchedPages: prefetch?.pageCount ?? 0,
      workingSetPages: countPages(this.#workingSet),
      isRecording: this.#isRecording,
      recordedPages: this.#recordedPages,
      remark: this.#remark,
    };
  }
}
