/**
 * Reads and writes the memory of another process, many pieces with one system call
 * (process_vm_readv(2), process_vm_writev(2)), in Node's thread pool.
 */
import koffi from "koffi";
import { check, libc } from "./libc.ts";

/** From linux/uio.h. */
const vectorsMax = 1024;
const vectorBytes = 16;
/**
 * LIMIT: bytes of one reading call; several run at once, so that all threads of the pool have work.
 */
const readBytesMax = 4 * 1024 * 1024;

/** Bytes to write to another process. */
export interface ProcessMemoryPiece {
  /** Address in the other process. */
  readonly address: number;
  readonly bytes: Uint8Array;
}

/** Memory to read from another process. */
export interface ProcessMemoryRange {
  /** Address in the other process. */
  readonly address: number;
  readonly lengthBytes: number;
}

/** A range of the other process and its place in this one. */
interface Vector extends ProcessMemoryRange {
  readonly here: bigint;
}

type TransferArguments = [
  pid: number,
  local: Buffer,
  localCount: number,
  remote: Buffer,
  remoteCount: number,
  flags: number,
];

interface Transfer {
  (...args: TransferArguments): number;
  async(...args: [...TransferArguments, (error: Error | null, result: number) => void]): void;
}

const processVmReadv = declareTransfer("process_vm_readv");
const processVmWritev = declareTransfer("process_vm_writev");

function declareTransfer(name: string): Transfer {
  return libc.func(
    `long ${name}(int pid, void *local, ulong localCount, void *remote, ulong remoteCount, ulong flags)`,
  ) as Transfer;
}

/**
 * Writes pieces into the memory of another process.
 * @param pieces Their bytes must not change until the promise settles.
 * @throws system error: ESRCH without such a process, EFAULT if it has no memory there
 */
export async function writeProcessMemory(
  pid: number,
  pieces: readonly ProcessMemoryPiece[],
): Promise<void> {
  const vectors = pieces.map(({ address, bytes }) => ({
    address,
    lengthBytes: bytes.length,
    here: koffi.address(bytes),
  }));
  for (let at = 0; at < vectors.length; at += vectorsMax) {
    await transfer("process_vm_writev", processVmWritev, pid, vectors.slice(at, at + vectorsMax));
  }
}

/**
 * Reads ranges of another process's memory.
 * @param to Address in this process, where there must be room for all ranges, one after the other,
 * until the promise settles. The caller vouches for it.
 * @throws system error: ESRCH without such a process, EFAULT if it has no memory there
 */
export async function readProcessMemory(
  pid: number,
  ranges: readonly ProcessMemoryRange[],
  to: number,
): Promise<void> {
  const calls = [...inCalls(ranges, to)].map(async (vectors) => {
    await transfer("process_vm_readv", processVmReadv, pid, vectors);
  });
  // Wait for all: none may still be writing when the caller takes the room back.
  await Promise.allSettled(calls);
  await Promise.all(calls);
}

function* inCalls(ranges: readonly ProcessMemoryRange[], to: number): Generator<readonly Vector[]> {
  let here = to;
  let vectors: Vector[] = [];
  let roomBytes = readBytesMax;
  for (const { address, lengthBytes } of ranges) {
    for (let done = 0; done < lengthBytes;) {
      const taken = Math.min(lengthBytes - done, roomBytes);
      vectors.push({ address: address + done, lengthBytes: taken, here: BigInt(here) });
      done += taken;
      here += taken;
      roomBytes -= taken;
      if (roomBytes > 0 && vectors.length < vectorsMax) continue;
      yield vectors;
      vectors = [];
      roomBytes = readBytesMax;
    }
  }
  if (vectors.length > 0) yield vectors;
}

async function transfer(
  name: string,
  call: Transfer,
  pid: number,
  vectors: readonly Vector[],
): Promise<void> {
  const count = vectors.length;
  const wantedBytes = vectors.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  const local = Buffer.alloc(count * vectorBytes);
  const remote = Buffer.alloc(count * vectorBytes);
  for (const [index, { address, lengthBytes, here }] of vectors.entries()) {
    writeVector(local, index, here, lengthBytes);
    writeVector(remote, index, BigInt(address), lengthBytes);
  }
  const args: TransferArguments = [pid, local, count, remote, count, 0];
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  call.async(...args, (error, result) => {
    if (error === null) resolve(result);
    else reject(error);
  });
  if ((await promise) === wantedBytes) return;
  // Only the thread that made the call knows its errno. Repeat the call here; moving the same bytes
  // again does no harm.
  const movedBytes = check(call(...args), name);
  if (movedBytes === wantedBytes) return;
  const what = `${name} moved ${movedBytes} of ${wantedBytes} bytes`;
  throw Object.assign(new Error(what), { code: "EFAULT", syscall: name });
}

function writeVector(vectors: Buffer, index: number, address: bigint, lengthBytes: number): void {
  vectors.writeBigUInt64LE(address, index * vectorBytes);
  vectors.writeBigUInt64LE(BigInt(lengthBytes), index * vectorBytes + 8);
}
