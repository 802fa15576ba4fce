/**
 * The guest's memory, seen through the QEMU process that maps it.
 *
 * A restored VM maps the memory image privately, so the pages that it wrote are exactly the
 * process's own. They are read through /proc/PID/mem at the address of that mapping, or many at a
 * time, and written many at a time.
 */
import { closeSync, openSync, readSync } from "node:fs";
import {
  type AddressRange,
  mappedPages,
  ownPages,
  readProcessMemory,
  writeProcessMemory,
} from "@torpor/native";
import {
  type MemoryPiece,
  type MemoryRange,
  TorporError,
  systemCode,
  totalBytes,
} from "@torpor/std";
import type { GuestMemory, VmHandle } from "../driver.ts";
import { fileMappings } from "../file-mappings.ts";
import { isAlive } from "../process.ts";

/** The memory of one VM under QEMU. */
export class ProcessMemory implements GuestMemory, Disposable {
  readonly sizeBytes: number;
  readonly #process: VmHandle;
  readonly #memoryPath: string;
  #mapped: { readonly fd: number; readonly start: number } | undefined;

  constructor(handle: VmHandle) {
    this.sizeBytes = handle.memoryMiB * 1024 * 1024;
    this.#process = handle;
    this.#memoryPath = handle.memoryPath;
  }

  estimateOwnBytes(): number {
    return totalBytes(this.ownRanges());
  }

  /**
   * Returns all of memory if the kernel does not report the pages: the caller then compares it page
   * by page.
   */
  ownRanges(): readonly MemoryRange[] {
    try {
      return this.#ranges(ownPages);
    } catch (cause) {
      if (systemCode(cause) === undefined) throw cause;
      return [{ startBytes: 0, endBytes: this.sizeBytes }];
    }
  }

  /** @throws system error if the kernel does not report them. */
  usedRanges(): readonly MemoryRange[] {
    return this.#ranges(mappedPages);
  }

  #ranges(find: (pid: number, range: AddressRange) => readonly AddressRange[]): MemoryRange[] {
    const { start } = this.#open();
    return find(this.#process.pid, { start, end: start + this.sizeBytes }).map((range) => ({
      startBytes: range.start - start,
      endBytes: range.end - start,
    }));
  }

  read(offsetBytes: number, into: Uint8Array): void {
    const { fd, start } = this.#open();
    assertWhole(readSync(fd, into, 0, into.length, start + offsetBytes), into.length);
  }

  async readTo(ranges: readonly MemoryRange[], address: number): Promise<void> {
    const { start } = this.#open();
    this.#expectAlive();
    const placed = ranges.map(({ startBytes, endBytes }) => ({
      address: start + startBytes,
      lengthBytes: endBytes - startBytes,
    }));
    await readProcessMemory(this.#process.pid, placed, address);
  }

  /** Writes pieces into the guest's memory. */
  async write(pieces: readonly MemoryPiece[]): Promise<void> {
    const { start } = this.#open();
    this.#expectAlive();
    const placed = pieces.map(({ offsetBytes, bytes }) => ({
      address: start + offsetBytes,
      bytes,
    }));
    await writeProcessMemory(this.#process.pid, placed);
  }

  [Symbol.dispose](): void {
    if (this.#mapped === undefined) return;
    closeSync(this.#mapped.fd);
    this.#mapped = undefined;
  }

  /** A call that identifies the process only by its pid must not reach another process. */
  #expectAlive(): void {
    if (!isAlive(this.#process)) throw new TorporError("vmm.exited", "QEMU has ended");
  }

  #open(): { readonly fd: number; readonly start: number } {
    this.#mapped ??= {
      start: findMapping(this.#process.pid, this.#memoryPath, this.sizeBytes),
      fd: openSync(`/proc/${this.#process.pid}/mem`, "r"),
    };
    return this.#mapped;
  }
}

function assertWhole(movedBytes: number, wantedBytes: number): void {
  if (movedBytes === wantedBytes) return;
  throw new TorporError(
    "vmm.failed",
    `moved ${movedBytes} of ${wantedBytes} bytes of guest memory`,
  );
}

function findMapping(pid: number, path: string, sizeBytes: number): number {
  const whole = fileMappings(pid, path).find(({ start, end }) => end - start === sizeBytes);
  if (whole !== undefined) return whole.start;
  throw new TorporError("vmm.failed", `process ${pid} does not map ${path}`);
}
