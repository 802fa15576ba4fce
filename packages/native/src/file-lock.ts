/** A lock on a file that the kernel releases when its holder ends, however it ends (flock(2)). */
import { closeSync, openSync } from "node:fs";
import { check, libc } from "./libc.ts";

const LOCK_EXCLUSIVE_NOW = 6;

const flock = libc.func("int flock(int fd, int operation)") as (
  fd: number,
  operation: number,
) => number;

/** A held lock, released when every copy of `fd` is closed; disposing closes this process's. */
export interface FileLock extends Disposable {
  /** A process that inherits it holds the lock too, for as long as it lives. */
  readonly fd: number;
}

/**
 * Takes the lock of a file, which is created if needed.
 * @returns undefined if another process holds it.
 */
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
