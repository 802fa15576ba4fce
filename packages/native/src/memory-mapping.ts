/**
 * Memory by its address: files mapped for the kernel to copy from, and plain memory to be filled.
 *
 * An address is passed to system calls only. A process that reads beyond the end of a truncated
 * mapped file is killed; a system call that does so fails with EFAULT instead.
 */
import { check, lastErrno, libc, systemError } from "./libc.ts";

const PROT_READ = 1;
const PROT_WRITE = 2;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_ANONYMOUS = 0x20;
const MAP_NORESERVE = 0x4000;
const MAP_POPULATE = 0x8000;
const MADV_DONTNEED = 4;
const MADV_POPULATE_READ = 22;

type MmapArguments = [
  address: number,
  length: number,
  protection: number,
  flags: number,
  fd: number,
  offset: number,
];

const mmap = libc.func(
  "long mmap(long address, size_t length, int protection, int flags, int fd, long offset)",
) as unknown as {
  (...args: MmapArguments): number;
  async(...args: [...MmapArguments, (error: Error | null, address: number) => void]): void;
};
const munmap = libc.func("int munmap(long address, size_t length)") as (
  address: number,
  length: number,
) => number;
const madvise = libc.func("int madvise(long address, size_t length, int advice)") as (
  address: number,
  length: number,
  advice: number,
) => number;
const copyIn = libc.func("void *memcpy(long to, void *from, size_t length)") as (
  to: number,
  from: Uint8Array,
  length: number,
) => unknown;
const copyOut = libc.func("void *memcpy(void *to, long from, size_t length)") as (
  to: Uint8Array,
  from: number,
  length: number,
) => unknown;

/** Mapped memory; disposing unmaps it. */
export interface MemoryMapping extends Disposable {
  readonly address: number;
  readonly lengthBytes: number;
}

/**
 * Maps a file for reading; the descriptor may be closed afterwards.
 * @throws system error ENOMEM, EACCES
 */
export function mapFile(fd: number, lengthBytes: number): MemoryMapping {
  return map(lengthBytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd);
}

/**
 * Maps a view of a file for this process alone: no other process sees what is written to it.
 * @throws a system error
 */
export function mapFilePrivately(fd: number, lengthBytes: number): MemoryMapping {
  return map(lengthBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd);
}

/**
 * Maps memory without a file, as a VMM reserves it for its guest. It takes none until it is
 * touched.
 * @throws a system error
 */
export function mapAnonymously(lengthBytes: number): MemoryMapping {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  return map(lengthBytes, PROT_READ | PROT_WRITE, flags, -1);
}

/**
 * Maps memory and touches all of it in Node's thread pool, so that later access causes no page
 * faults. V8 does not count this memory as it counts a Buffer: each 64 MiB of Buffers make it
 * collect garbage, with a thread on every processor and at a time of its own choosing.
 * @param lengthBytes At least 1.
 * @throws system error ENOMEM
 */
export async function mapTouched(lengthBytes: number): Promise<MemoryMapping> {
  const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  mmap.async(0, lengthBytes, PROT_READ | PROT_WRITE, flags, -1, 0, (error, address) => {
    if (error !== null) reject(error);
    else if (address === -1) reject(systemError(lastErrno(), "mmap"));
    else resolve(address);
  });
  return mappingOf(await promise, lengthBytes);
}

/**
 * Gives the pages back, as a balloon does; a page that is touched later is a new one.
 * @throws a system error
 */
export function discardMemory(address: number, lengthBytes: number): void {
  check(madvise(address, lengthBytes, MADV_DONTNEED), "madvise");
}

/**
 * Populates pages of a mapped file, so that they are read without a fault; waits for the disk. This
 * is a hint: beyond the file's end, and before Linux 5.14, it changes nothing.
 */
export function populateMapping(address: number, lengthBytes: number): void {
  madvise(address, lengthBytes, MADV_POPULATE_READ);
}

/** Copies bytes to an address. The caller vouches for the address: a wrong one ends the process. */
export function writeMemory(address: number, from: Uint8Array): void {
  copyIn(address, from, from.length);
}

/**
 * Copies bytes from an address. The caller vouches for the address: a wrong one ends the process.
 */
export function readMemory(address: number, into: Uint8Array): void {
  copyOut(into, address, into.length);
}

function map(lengthBytes: number, protection: number, flags: number, fd: number): MemoryMapping {
  return mappingOf(check(mmap(0, lengthBytes, protection, flags, fd, 0), "mmap"), lengthBytes);
}

function mappingOf(address: number, lengthBytes: number): MemoryMapping {
  let mapped = true;
  return {
    address,
    lengthBytes,
    [Symbol.dispose]: () => {
      if (mapped) munmap(address, lengthBytes);
      mapped = false;
    },
  };
}
