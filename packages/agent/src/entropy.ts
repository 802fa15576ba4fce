/**
 * The only source of randomness in the agent.
 *
 * A snapshot copies a generator inside this process, so two clones would draw the same numbers.
 * Therefore random bytes are read from the kernel each time, and after a restore the process's own
 * generators are reseeded as well, for the libraries that use them.
 */
import { createHash, randomBytes, randomUUID } from "node:crypto";
import { closeSync, openSync, readSync } from "node:fs";
import { reseedKernel, reseedOpenSsl } from "@torpor/native";

/** Node draws this many UUIDs at once and hands them out one by one. */
const uuidCacheEntries = 128;
const hashedBytes = 64;

/** Fresh bytes from the kernel; nothing is kept between calls. */
export function freshBytes(count: number): Buffer {
  const bytes = Buffer.alloc(count);
  const fd = openSync("/dev/urandom", "r");
  try {
    for (let at = 0; at < count;) at += readSync(fd, bytes, at, count - at, null);
  } finally {
    closeSync(fd);
  }
  return bytes;
}

/**
 * Makes the kernel's and this process's generators differ from those of every clone.
 * ORDER: the kernel first, because OpenSSL is seeded from it; then the UUIDs drawn before the
 * snapshot are thrown away.
 * @throws system error EPERM without CAP_SYS_ADMIN.
 */
export function renewGenerators(hostEntropy: Uint8Array): void {
  reseedKernel(hostEntropy);
  reseedOpenSsl();
  for (let drawn = 0; drawn < uuidCacheEntries; drawn += 1) randomUUID();
}

/**
 * SHA-256, in hex, of fresh bytes of both generators. It is equal in two clones only if reseeding
 * failed.
 */
export function randomHash(): string {
  const hash = createHash("sha256");
  hash.update(freshBytes(hashedBytes));
  hash.update(randomBytes(hashedBytes));
  return hash.digest("hex");
}
