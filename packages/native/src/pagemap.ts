/**
 * Which pages of a private file mapping a process has made its own.
 *
 * A page of a MAP_PRIVATE file mapping is the process's own (copied on write) when it is present or
 * swapped and is not a page of the file. The first way asks the kernel for exactly those ranges
 * (PAGEMAP_SCAN, Linux 6.7); the second reads the 8 bytes a page of /proc/PID/pagemap, which every
 * kernel has. Sources: Linux admin-guide/mm/pagemap and uapi/linux/fs.h.
 */
import { closeSync, openSync, readSync } from "node:fs";
import koffi from "koffi";
import { check, libc } from "./libc.ts";

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

/**
 * Pages of `range` in process `pid` that are its own, in ascending order.
 * @throws EACCES or ENOENT when the process cannot be looked into.
 */
export function ownPages(pid: number, range: AddressRange): readonly AddressRange[] {
  const fd = openSync(`/proc/${pid}/pagemap`, "r");
  try {
    return scanOwnPages(fd, range) ?? readOwnPages(fd, range);
  } finally {
    closeSync(fd);
  }
}

/** @returns undefined on a kernel without PAGEMAP_SCAN. */
function scanOwnPages(fd: number, range: AddressRange): readonly AddressRange[] | undefined {
  const regions = Buffer.alloc(regionsMax * regionBytes);
  const found: AddressRange[] = [];
  for (let start = range.start; ;) {
    const argument = scanArgument(start, range.end, regions);
    try {
      const count = check(scanIoctl(fd, PAGEMAP_SCAN, argument), "PAGEMAP_SCAN");
      for (let index = 0; index < count; index += 1) {
        append(found, readRegion(regions, index * regionBytes));
      }
      // Not by where it says that it ended: Linux 6.18 names an earlier place after some hundred results.
      if (count < regionsMax) return found;
    } catch (error) {
      if (isUnknownRequest(error)) return undefined;
      throw error;
    }
    start = Number(argument.readBigUInt64LE(32));
  }
}

/** `struct pm_scan_arg`: twelve u64. Asks for (present or swapped) and not file. */
function scanArgument(start: number, end: number, regions: Buffer): Buffer {
  const argument = Buffer.alloc(argumentBytes);
  const anyOf = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
  const words = [
    BigInt(argumentBytes),
    0n,
    BigInt(start),
    BigInt(end),
    0n, // out: where the walk ended
    koffi.address(regions),
    BigInt(regionsMax),
    0n,
    PAGE_IS_FILE, // inverted, so that the mask asks for "not file"
    PAGE_IS_FILE,
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

/** Bits 63 present, 62 swapped, 61 file page or shared anonymous page; each entry is 8 bytes. */
export function readOwnPages(fd: number, range: AddressRange): readonly AddressRange[] {
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
      if ((flags & 0b110) !== 0 && (flags & 0b001) === 0) {
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
