/**
 * Makes two random number generators forget the state that a snapshot may have copied.
 *
 * The kernel's is rekeyed by a pair of ioctls: added bytes alone only stir the pool, and a reseed
 * alone derives the key from the pool that every clone shares. OpenSSL's generator lives in this
 * process and does not notice the kernel's reseed, so it must fetch a new seed after the kernel has
 * its own.
 */
import { closeSync, openSync } from "node:fs";
import { TorporError } from "@torpor/std";
import { check, libc, self } from "./libc.ts";

/** From linux/random.h; the numbers are the same on x86-64 and arm64. */
const addEntropyRequest = 0x4008_5203;
const reseedRequest = 0x5207;

const ioctl = libc.func("int ioctl(int fd, unsigned long request, void *argument)") as (
  fd: number,
  request: number,
  argument: Buffer | null,
) => number;
const randPoll = self.func("int RAND_poll()") as () => number;

/**
 * Adds `bytes`, credited in full, and rekeys the kernel's generator from its pool. Safe to repeat.
 * @throws system error EPERM without CAP_SYS_ADMIN.
 */
export function reseedKernel(bytes: Uint8Array): void {
  /** struct rand_pool_info: bits of entropy, length in bytes, the bytes. */
  const pool = Buffer.alloc(8 + bytes.length);
  pool.writeInt32LE(bytes.length * 8, 0);
  pool.writeInt32LE(bytes.length, 4);
  pool.set(bytes, 8);
  const fd = openSync("/dev/urandom", "r");
  try {
    check(ioctl(fd, addEntropyRequest, pool), "ioctl RNDADDENTROPY");
    check(ioctl(fd, reseedRequest, null), "ioctl RNDRESEEDCRNG");
  } finally {
    closeSync(fd);
  }
}

/**
 * Gives this process's OpenSSL a fresh seed from the kernel.
 * ORDER: after `reseedKernel`, because the seed is only as fresh as the kernel's generator.
 */
export function reseedOpenSsl(): void {
  if (randPoll() !== 1) throw new TorporError("internal", "RAND_poll failed");
}
