/**
 * Writes into the memory of another process, many pieces with one system call (process_vm_writev(2)), in
 * Node's thread pool: what takes long is the page fault that each page costs.
 */
import koffi from "koffi";
import { check, libc } from "./libc.ts";

/** From linux/uio.h. */
const vectorsMax = 1024;
const vectorBytes = 16;

export interface ProcessMemoryPiece {
  /** In the other process. */
  readonly address: number;
  readonly bytes: Uint8Array;
}

type WriteArguments = [
  pid: number,
  local: Buffer,
  localCount: number,
  remote: Buffer,
  remoteCount: number,
  flags: number,
];

const processVmWritev = libc.func(
  "long process_vm_writev(int pid, void *local, ulong localCount, void *remote, ulong remoteCount, ulong flags)",
) as unknown as {
  (...args: WriteArguments): number;
  async(...args: [...WriteArguments, (error: Error | null, result: number) => void]): void;
};

/**
 * @param pieces Their bytes stay as they are until it settles.
 * @throws system error: ESRCH without such a process, EFAULT when it has no memory there
 */
export async function writeProcessMemory(
  pid: number,
  pieces: readonly ProcessMemoryPiece[],
): Promise<void> {
  for (let at = 0; at < pieces.length; at += vectorsMax) {
    await writeTogether(pid, pieces.slice(at, at + vectorsMax));
  }
}

async function writeTogether(pid: number, pieces: readonly ProcessMemoryPiece[]): Promise<void> {
  const count = pieces.length;
  const wantedBytes = pieces.reduce((sum, { bytes }) => sum + bytes.length, 0);
  const local = Buffer.alloc(count * vectorBytes);
  const remote = Buffer.alloc(count * vectorBytes);
  for (const [index, { address, bytes }] of pieces.entries()) {
    writeVector(local, index, koffi.address(bytes), bytes.length);
    writeVector(remote, index, BigInt(address), bytes.length);
  }
  const args: WriteArguments = [pid, local, count, remote, count, 0];
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  processVmWritev.async(...args, (error, result) => {
    if (error === null) resolve(result);
    else reject(error);
  });
  if ((await promise) === wantedBytes) return;
  // Why not is known only to the thread that asked. To write the same again changes nothing.
  const writtenBytes = check(processVmWritev(...args), "process_vm_writev");
  if (writtenBytes === wantedBytes) return;
  const what = `process_vm_writev wrote ${writtenBytes} of ${wantedBytes} bytes`;
  throw Object.assign(new Error(what), { code: "EFAULT", syscall: "process_vm_writev" });
}

function writeVector(vectors: Buffer, index: number, address: bigint, lengthBytes: number): void {
  vectors.writeBigUInt64LE(address, index * vectorBytes);
  vectors.writeBigUInt64LE(BigInt(lengthBytes), index * vectorBytes + 8);
}
