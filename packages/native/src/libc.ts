/**
 * The C library and this process's own symbols, called through koffi.
 *
 * Each file of this package declares the few functions it needs from here and exports one plain
 * TypeScript function per task; nothing else in Torpor calls koffi. A failing call throws a
 * Node-like error with `code` ("EPERM") and `syscall`, so callers treat it as any other system
 * error.
 */
import { constants } from "node:os";
import koffi from "koffi";

/** The C library. */
export const libc = koffi.load("libc.so.6");
/** Symbols that the Node executable itself exports, OpenSSL's among them. */
export const self = koffi.load(null);

/** The first name of each number: EAGAIN, not its synonym EWOULDBLOCK. */
const nameByErrno = new Map<number, string>(
  Object.entries(constants.errno)
    .reverse()
    .map(([name, number]) => [number, name]),
);

/**
 * Turns the -1 of a system call into an error; returns any other result unchanged.
 * @throws a system error
 */
export function check(result: number, syscall: string): number {
  if (result !== -1) return result;
  throw systemError(lastErrno(), syscall);
}

/** The errno of the system call that failed last. */
export function lastErrno(): number {
  return koffi.errno();
}

/** Makes a Node-like error with `code`, `errno` and `syscall`. */
export function systemError(errno: number, syscall: string): Error {
  const code = nameByErrno.get(errno) ?? `errno ${errno}`;
  return Object.assign(new Error(`${syscall} failed: ${code}`), { code, errno, syscall });
}
