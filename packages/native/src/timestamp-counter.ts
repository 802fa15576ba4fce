/**
 * The rate of the CPU's timestamp counter.
 *
 * A guest under software emulation sees the host's counter and gets its rate at boot, and its
 * snapshots depend on that rate. Linux prints the rate once at boot and offers no file for it, so
 * it is measured: two readings of the counter against the monotonic clock, each the closest of
 * many, because on a busy machine other programs run between reading the one and the other.
 */
import { setTimeout as sleep } from "node:timers/promises";
import koffi from "koffi";
import { libc } from "./libc.ts";

const PROT_READ_WRITE_EXEC = 7;
const MAP_PRIVATE_ANONYMOUS = 0x22;
/** x86-64: rdtsc; shl rdx,32; or rax,rdx; ret. */
const readCounterCode = [0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xc3];
const measuringMs = 200;
/** How often each of the two readings is tried. */
const attempts = 200;
/** Rates are rounded to this, well inside the 250 ppm that hypervisors tolerate. */
const roundToKhz = 100;

const mmap = libc.func(
  "void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)",
) as (...argumentList: unknown[]) => bigint;

const counterPrototype = koffi.proto("uint64_t readTimestampCounter()");

/** Measures the rate of this machine's timestamp counter, in ticks a millisecond. Takes 200 ms. */
export async function measureTscKhz(): Promise<number> {
  const readCounter = counterReader();
  const first = readTogether(readCounter);
  await sleep(measuringMs);
  const second = readTogether(readCounter);
  const ticks = Number(second.ticks - first.ticks);
  const milliseconds = Number(second.nanoseconds - first.nanoseconds) / 1e6;
  return Math.round(ticks / milliseconds / roundToKhz) * roundToKhz;
}

/** Reads counter and clock at nearly the same moment: the attempt that took least by the clock. */
function readTogether(readCounter: () => bigint): { ticks: bigint; nanoseconds: bigint } {
  let closest = { tookNanoseconds: 2n ** 62n, ticks: 0n, nanoseconds: 0n };
  for (let attempt = 0; attempt < attempts; attempt += 1) {
    const before = process.hrtime.bigint();
    const ticks = readCounter();
    const tookNanoseconds = process.hrtime.bigint() - before;
    if (tookNanoseconds >= closest.tookNanoseconds) continue;
    closest = { tookNanoseconds, ticks, nanoseconds: before + tookNanoseconds / 2n };
  }
  return closest;
}

function counterReader(): () => bigint {
  const page = mmap(
    null,
    readCounterCode.length,
    PROT_READ_WRITE_EXEC,
    MAP_PRIVATE_ANONYMOUS,
    -1,
    0,
  );
  new Uint8Array(koffi.view(page, readCounterCode.length)).set(readCounterCode);
  return () => BigInt(koffi.call(page, counterPrototype) as number | bigint);
}
