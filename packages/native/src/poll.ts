/** Waits for several descriptors at once, and blocks the thread until then (poll(2)). */
import { constants } from "node:os";
import { lastErrno, libc, systemError } from "./libc.ts";

const POLLIN = 1;
/** Flags that the kernel sets unrequested: an error, the far end is gone, no such descriptor. */
const POLLERR_HUP_NVAL = 0x38;
const entryBytes = 8;

const poll = libc.func("int poll(void *entries, unsigned long count, int timeoutMs)") as (
  entries: Uint8Array,
  count: number,
  timeoutMs: number,
) => number;

/**
 * Blocks this thread until one of `fds` can be read from, has ended or failed, or the time is over.
 * @param timeoutMs 0 to return at once; negative to wait without limit.
 * @returns The descriptors that are ready; none when the time was over or a signal arrived.
 * @throws a system error
 */
export function pollReadable(fds: readonly number[], timeoutMs: number): readonly number[] {
  const entries = Buffer.alloc(fds.length * entryBytes);
  for (const [index, fd] of fds.entries()) {
    entries.writeInt32LE(fd, index * entryBytes);
    entries.writeInt16LE(POLLIN, index * entryBytes + 4);
  }
  const count = poll(entries, fds.length, Math.ceil(timeoutMs));
  if (count === -1) {
    const errno = lastErrno();
    if (errno === constants.errno.EINTR) return [];
    throw systemError(errno, "poll");
  }
  if (count === 0) return [];
  return fds.filter((_fd, index) => {
    const seen = entries.readInt16LE(index * entryBytes + 6);
    return (seen & (POLLIN | POLLERR_HUP_NVAL)) !== 0;
  });
}
