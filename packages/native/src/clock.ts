/** Sets the wall clock of this machine. */
import { check, libc } from "./libc.ts";

const clockRealtime = 0;

const clockSetTime = libc.func("int clock_settime(int clock, void *time)") as (
  clock: number,
  time: Buffer,
) => number;

/**
 * Steps the wall clock to `unixMs`, milliseconds since 1970. The monotonic clock is not touched.
 * @throws system error EPERM without CAP_SYS_TIME.
 */
export function setWallClock(unixMs: number): void {
  const seconds = Math.floor(unixMs / 1000);
  /** struct timespec: seconds, nanoseconds. */
  const time = Buffer.alloc(16);
  time.writeBigInt64LE(BigInt(seconds), 0);
  time.writeBigInt64LE(BigInt(Math.floor((unixMs - seconds * 1000) * 1e6)), 8);
  check(clockSetTime(clockRealtime, time), "clock_settime");
}
