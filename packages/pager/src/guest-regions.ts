/**
 * Where the guest's memory lies in the VM's process: Firecracker's description of it, checked, and
 * the translation between addresses and pages of the saved memory.
 *
 * x86 guests of more than 3 GiB have a hole for devices, and so two regions. Their pages are
 * numbered as they lie in the memory file, without the hole.
 */
import { TorporError, parseInteger, parseJson, parseObject } from "@torpor/std";
import { pageBytes } from "@torpor/storage";
import type { PageRange } from "./page-source.ts";

interface Region extends PageRange {
  readonly address: number;
}

const addressMax = 2 ** 48;

/** The regions of one VM's memory. */
export class GuestRegions {
  readonly #regions: readonly Region[];

  private constructor(regions: readonly Region[]) {
    this.#regions = regions;
  }

  /**
   * Parses Firecracker's description.
   * @param text An array of `base_host_virt_addr`, `size`, `offset` and `page_size`, all in bytes;
   * `page_size_kib`, which is in bytes as well, is ignored.
   * @param sizeBytes The size of the saved memory.
   * @throws vmm.failed if it is something else, operation.unimplemented for huge pages.
   */
  static parse(text: string, sizeBytes: number): GuestRegions {
    const regions = parseRegions(text, sizeBytes);
    assertApart(regions.map(({ firstPage, endPage }) => [firstPage, endPage]));
    assertApart(
      regions.map(({ address, firstPage, endPage }) => [
        address,
        address + (endPage - firstPage) * pageBytes,
      ]),
    );
    return new GuestRegions(regions);
  }

  /** Pages of all regions together. */
  get pageCount(): number {
    return this.#regions.reduce((sum, { firstPage, endPage }) => sum + endPage - firstPage, 0);
  }

  /** The page at an address. @returns undefined for an address in no region. */
  pageAt(address: number): number | undefined {
    for (const region of this.#regions) {
      const offset = address - region.address;
      const page = region.firstPage + Math.floor(offset / pageBytes);
      if (offset >= 0 && page < region.endPage) return page;
    }
    return undefined;
  }

  /**
   * The longest part of `range`, from its start, that lies in one region; empty if no region
   * contains the start.
   */
  pieceOf({ firstPage, endPage }: PageRange): PageRange & { readonly address: number } {
    for (const region of this.#regions) {
      if (firstPage < region.firstPage || firstPage >= region.endPage) continue;
      const address = region.address + (firstPage - region.firstPage) * pageBytes;
      return { firstPage, endPage: Math.min(endPage, region.endPage), address };
    }
    return { firstPage, endPage: firstPage, address: 0 };
  }
}

function parseRegions(text: string, sizeBytes: number): readonly Region[] {
  try {
    const entries = parseJson(text, "it");
    if (!Array.isArray(entries) || entries.length === 0) throw wrong("it names no memory");
    return entries.map((entry: unknown) => parseRegion(entry, sizeBytes));
  } catch (cause) {
    if (!TorporError.is(cause) || cause.code !== "argument.invalid") throw cause;
    throw wrong(cause.rawMessage);
  }
}

function parseRegion(entry: unknown, sizeBytes: number): Region {
  const region = parseObject(entry, "a region");
  const number = (name: string, max: number): number =>
    parseInteger(region[name], `${name} of a region`, 0, max);
  const address = number("base_host_virt_addr", addressMax);
  const offset = number("offset", Number.MAX_SAFE_INTEGER);
  const size = number("size", Number.MAX_SAFE_INTEGER);
  const regionPageBytes = number("page_size", Number.MAX_SAFE_INTEGER);
  if (regionPageBytes !== pageBytes) {
    throw new TorporError("operation.unimplemented", `pages of ${regionPageBytes} bytes`);
  }
  const aligned = [address, offset, size].every((one) => one % pageBytes === 0);
  if (!aligned || size === 0) throw wrong("a region is not made of whole pages");
  if (offset + size > sizeBytes) throw wrong("a region lies beyond what was saved");
  return { address, firstPage: offset / pageBytes, endPage: (offset + size) / pageBytes };
}

function assertApart(ranges: readonly (readonly [number, number])[]): void {
  const sorted = ranges.toSorted(([a], [b]) => a - b);
  for (const [index, [start]] of sorted.entries()) {
    if (index > 0 && start < (sorted[index - 1]?.[1] ?? 0)) throw wrong("two regions overlap");
  }
}

function wrong(what: string): TorporError {
  return new TorporError("vmm.failed", `the VMM's message about its memory: ${what}`);
}
