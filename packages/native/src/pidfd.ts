/**
 * A process by a descriptor, which never refers to another process that got its number later
 * (pidfd_open(2)).
 */
import { constants } from "node:os";
import { check, lastErrno, libc, systemError } from "./libc.ts";

const sysPidfdSendSignal = 424;
const sysPidfdOpen = 434;

const syscall2 = libc.func("long syscall(long number, long first, long second)") as (
  number: number,
  first: number,
  second: number,
) => number;
const syscall4 = libc.func(
  "long syscall(long number, long first, long second, long third, long fourth)",
) as (number: number, first: number, second: number, third: number, fourth: number) => number;

/**
 * Opens a descriptor of a process; poll reports it readable once the process has ended.
 * @throws system error ESRCH
 */
export function openPidfd(pid: number): number {
  return check(syscall2(sysPidfdOpen, pid, 0), "pidfd_open");
}

/** Kills the process at once. Succeeds if it has already ended. @throws system error EPERM */
export function killByPidfd(fd: number): void {
  const result = syscall4(sysPidfdSendSignal, fd, constants.signals.SIGKILL, 0, 0);
  if (result !== -1) return;
  const errno = lastErrno();
  if (errno !== constants.errno.ESRCH) throw systemError(errno, "pidfd_send_signal");
}
