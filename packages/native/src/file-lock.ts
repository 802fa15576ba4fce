/** A lock on a file that the kernel gives back when its holder ends, however it ends (flock(2)). */
import { closeSync, openSync } from "node:fs";
import { check, libc } from "./libc.ts";

const LOCK_EXCLUSIVE_NOW = 6;

const flock = libc.func("int flock(int fd, int operation)") as (
  fd: number,
  operation: number,
) => number;

export interface FileLock extends Disposable {
  /** A process that is started with it holds the lock too, for as long as it lives. */
  readonly fd: number;
}

/** @returns undefined when another process holds the lock. */
export function tryLockFile(path: string): FileLock | undefined {
  const fd = openSync(path, "a", 0o600);
  try {
    check(flock(fd, LOCK_EXCLUSIVE_NOW), "flock");
  } catch (error) {
    closeSync(fd);
    if (error instanceof Error && "code" in error && error.code === "EAGAIN") return undefined;
    throw error;
  }
  return { fd, [Symbol.dispose]: () => closeSync(fd) };
}
