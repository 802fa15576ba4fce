/**
 * Finds the pages of a private file mapping that a process has, and those that are its own.
 *
 * A process has the pages that are present or swapped. In a MAP_PRIVATE file mapping such a page is
 * the process's own (copied on write) if it is not a page of the file. There are two ways to find
 * them: one asks the kernel for exactly those ranges (PAGEMAP_SCAN, Linux 6.7); the other reads the
 * 8 bytes a page of /proc/PID/pagemap, which every kernel has. Sources: Linux
 * admin-guide/mm/pagemap and uapi/linux/fs.h.
 */
import { closeSync, openSync, readSync } from "node:fs";
import koffi from "koffi";
import { check, libc } from "./libc.ts";

/** Size of a page of memory. */
export const pageBytes = 4096;

/** Half-open range of addresses, page-aligned. */
export interface AddressRange {
  readonly start: number;
  readonly end: number;
}

const PAGEMAP_SCAN = 0xc060_6610;
const PAGE_IS_FILE = 1n << 2n;
const PAGE_IS_PRESENT = 1n << 3n;
const PAGE_IS_SWAPPED = 1n << 4n;
const argumentBytes = 96;
const regionBytes = 24;
/** Results per call: a 384 KiB buffer, enough for most guests in one call. */
const regionsMax = 16_384;

const scanIoctl = libc.func("int ioctl(int fd, unsigned long request, _Inout_ uint8_t *arg)") as (
  fd: number,
  request: number,
  arg: Buffer,
) => number;

/** The pages that a process has at all, or those that are its own. */
export type PageKind = "mapped" | "own";

/**
 * Pages of `range` in process `pid` that are its own, in ascending order.
 * @throws EACCES or ENOENT if the process cannot be inspected.
 */
export function ownPages(pid: number, range: AddressRange): readonly AddressRange[] {
  return findPages(pid, range, "own");
}

/**
 * Pages of `range` that process `pid` has touched, in ascending order, and some beside them: the
 * kernel maps up to 16 around a fault, if they are in the page cache.
 * @throws EACCES or ENOENT if the process cannot be inspected.
 */
export function mappedPages(pid: number, range: AddressRange): readonly AddressRange[] {
  return findPages(pid, range, "mapped");
}

function findPages(pid: number, range: AddressRange, kind: PageKind): readonly AddressRange[] {
  const fd = openSync(`/proc/${pid}/pagemap`, "r");
  try {
    return scanPages(fd, range, kind) ?? readPages(fd, range, kind);
  } finally {
    closeSync(fd);
  }
}

/** @returns undefined on a kernel without PAGEMAP_SCAN. */
function scanPages(
  fd: number,
  range: AddressRange,
  kind: PageKind,
): readonly AddressRange[] | undefined {
  const regions = Buffer.alloc(regionsMax * regionBytes);
  const found: AddressRange[] = [];
  let start = range.start;
  while (start < range.end) {
    const argument = scanArgument(start, range.end, regions, kind);
    let count: number;
    try {
      count = check(scanIoctl(fd, PAGEMAP_SCAN, argument), "PAGEMAP_SCAN");
    } catch (error) {
      if (isUnknownRequest(error)) return undefined;
      throw error;
    }
    for (let index = 0; index < count; index += 1) {
      append(found, readRegion(regions, index * regionBytes));
    }
    if (count < regionsMax) break;
    // Do not use the end of the walk as the kernel reports it: Linux 6.18 reports an earlier place.
    start = found.at(-1)?.end ?? range.end;
  }
  return found;
}

/**
 * `struct pm_scan_arg`: twelve u64. Asks for pages that are present or swapped, and for "own" not
 * of the file.
 */
function scanArgument(start: number, end: number, regions: Buffer, kind: PageKind): Buffer {
  const argument = Buffer.alloc(argumentBytes);
  const notFile = kind === "own" ? PAGE_IS_FILE : 0n;
  const anyOf = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
  const words = [
    BigInt(argumentBytes),
    0n,
    BigInt(start),
    BigInt(end),
    0n, // out: where the walk has ended
    koffi.address(regions),
    BigInt(regionsMax),
    0n,
    notFile, // inverted, so that the mask asks for "not file"
    notFile,
    anyOf,
    anyOf,
  ];
  for (const [index, word] of words.entries()) argument.writeBigUInt64LE(word, index * 8);
  return argument;
}

function readRegion(regions: Buffer, offset: number): AddressRange {
  return {
    start: Number(regions.readBigUInt64LE(offset)),
    end: Number(regions.readBigUInt64LE(offset + 8)),
  };
}

function isUnknownRequest(error: unknown): boolean {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return code === "ENOTTY" || code === "EINVAL";
}

/**
 * Reads /proc/PID/pagemap: bits 63 present, 62 swapped, 61 file page or shared anonymous page; each
 * entry is 8 bytes.
 * @param fd A descriptor of /proc/PID/pagemap.
 */
export function readPages(
  fd: number,
  range: AddressRange,
  kind: PageKind,
): readonly AddressRange[] {
  const found: AddressRange[] = [];
  const chunk = Buffer.alloc(512 * 1024);
  let address = range.start;
  while (address < range.end) {
    const pages = Math.min((range.end - address) / pageBytes, chunk.length / 8);
    const bytes = readSync(fd, chunk, 0, pages * 8, (address / pageBytes) * 8);
    if (bytes === 0) break;
    for (let offset = 7; offset < bytes; offset += 8) {
      // Only the top byte of the little-endian entry matters: bits 63, 62 and 61.
      const flags = chunk.readUInt8(offset) >> 5;
      if ((flags & 0b110) !== 0 && (kind === "mapped" || (flags & 0b001) === 0)) {
        append(found, { start: address, end: address + pageBytes });
      }
      address += pageBytes;
    }
  }
  return found;
}

/** Adds a range, joining it to the last one where they touch. */
function append(ranges: AddressRange[], next: AddressRange): void {
  const last = ranges.at(-1);
  if (last?.end === next.start) {
    ranges[ranges.length - 1] = { start: last.start, end: next.end };
  } else {
    ranges.push(next);
  }
}
