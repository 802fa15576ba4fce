/**
 * Pseudo-terminals: opens a pair, and sets the size of the window.
 *
 * A process gets the terminal as its controlling one by opening `slavePath` while it leads a
 * session that has none yet.
 */
import { closeSync, constants, openSync } from "node:fs";
import { check, libc } from "./libc.ts";

/** From fcntl.h; Node does not list it. */
const closeOnExec = 0o2_000_000;
const setWindowSizeRequest = 0x5414;
const nameBytesMax = 64;

const posixOpenPt = libc.func("int posix_openpt(int flags)") as (flags: number) => number;
const grantPt = libc.func("int grantpt(int fd)") as (fd: number) => number;
const unlockPt = libc.func("int unlockpt(int fd)") as (fd: number) => number;
const ptsName = libc.func("int ptsname_r(int fd, void *name, size_t bytes)") as (
  fd: number,
  name: Buffer,
  bytes: number,
) => number;
const ioctl = libc.func("int ioctl(int fd, unsigned long request, void *argument)") as (
  fd: number,
  request: number,
  argument: Buffer,
) => number;

/** A pair of descriptors; the caller closes both. */
export interface Pty {
  /** Non-blocking; reading fails with EIO once the last holder of the slave is gone. */
  readonly masterFd: number;
  /** Close it after the child has inherited it, or the master never reports the end. */
  readonly slaveFd: number;
  readonly slavePath: string;
}

/**
 * Opens a pseudo-terminal.
 * @throws system error, ENOSPC when the kernel's limit of terminals is reached.
 */
export function openPty(): Pty {
  const flags = constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK | closeOnExec;
  const masterFd = check(posixOpenPt(flags), "posix_openpt");
  try {
    check(grantPt(masterFd), "grantpt");
    check(unlockPt(masterFd), "unlockpt");
    const name = Buffer.alloc(nameBytesMax);
    check(ptsName(masterFd, name, nameBytesMax) === 0 ? 0 : -1, "ptsname_r");
    const slavePath = name.toString("latin1", 0, name.indexOf(0));
    const slaveFd = openSync(slavePath, constants.O_RDWR | constants.O_NOCTTY);
    return { masterFd, slaveFd, slavePath };
  } catch (cause) {
    closeSync(masterFd);
    throw cause;
  }
}

/**
 * Sets the terminal's size in characters; its foreground processes get SIGWINCH if it changed.
 * @throws a system error
 */
export function resizePty(masterFd: number, cols: number, rows: number): void {
  /** struct winsize: rows, columns, and two pixel sizes nobody uses. */
  const size = Buffer.alloc(8);
  size.writeUInt16LE(rows, 0);
  size.writeUInt16LE(cols, 2);
  check(ioctl(masterFd, setWindowSizeRequest, size), "ioctl TIOCSWINSZ");
}
