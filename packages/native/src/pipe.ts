/**
 * Real pipes for the standard streams of a child.
 *
 * Node's own stdio pipes are pairs of sockets, and a socket cannot be reopened by name: under
 * Node's own stdio `echo x > /dev/stderr` fails in a shell.
 */
import { check, libc } from "./libc.ts";

/** From fcntl.h; Node does not list it. */
const closeOnExec = 0o2_000_000;

const pipe2 = libc.func("int pipe2(void *fds, int flags)") as (
  fds: Buffer,
  flags: number,
) => number;

/** The two ends of a pipe; the caller closes both. */
export interface Pipe {
  readonly readFd: number;
  readonly writeFd: number;
}

/**
 * Opens a pipe. Both ends close on exec unless they are passed to the child.
 * @throws system error EMFILE, ENFILE
 */
export function openPipe(): Pipe {
  const fds = Buffer.alloc(8);
  check(pipe2(fds, closeOnExec), "pipe2");
  return { readFd: fds.readInt32LE(0), writeFd: fds.readInt32LE(4) };
}
