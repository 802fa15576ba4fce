/**
 * Page faults that a process handles instead of the kernel (userfaultfd(2), linux/userfaultfd.h).
 *
 * Memory of one process is registered with a descriptor; a thread that touches a missing page stops
 * until the process that holds the descriptor puts one there. This file has both ends: the process
 * that registers memory, and the one that is sent the descriptor and fills the memory.
 *
 * Calls that fill memory are made for each page fault. They return the kernel's result and throw
 * only unexpected system errors, and they allocate nothing.
 */
import { closeSync, openSync } from "node:fs";
import { constants } from "node:os";
import { check, lastErrno, libc, systemError } from "./libc.ts";

const USERFAULTFD_IOC_NEW = 0xaa00;
const UFFDIO_API = 0xc018_aa3f;
const UFFDIO_REGISTER = 0xc020_aa00;
const UFFDIO_WAKE = 0x8010_aa02;
const UFFDIO_COPY = 0xc028_aa03;
const UFFDIO_ZEROPAGE = 0xc020_aa04;
const apiVersion = 0xaan;
const featureRemoveEvents = 1n << 3n;
const modeMissing = 1n;
/** O_CLOEXEC and O_NONBLOCK, as Firecracker opens it. */
const openFlags = 0o2_004_000;

const eventPagefault = 0x12;
const eventRemove = 0x15;
const messageBytes = 32;
/** LIMIT: messages read in one call; more wait in the kernel. */
const messagesMax = 64;

const ioctlNumber = libc.func("int ioctl(int fd, unsigned long request, long arg)") as (
  fd: number,
  request: number,
  argument: number,
) => number;
const ioctlStruct = libc.func("int ioctl(int fd, unsigned long request, void *arg)") as (
  fd: number,
  request: number,
  argument: Uint8Array,
) => number;
const read = libc.func("long read(int fd, void *bytes, size_t length)") as (
  fd: number,
  bytes: Uint8Array,
  length: number,
) => number;

/** An address range (half-open) that was given back, or a page that a thread waits for. */
export type UserfaultEvent =
  | { readonly kind: "fault"; readonly address: number }
  | { readonly kind: "remove"; readonly start: number; readonly end: number }
  | { readonly kind: "other"; readonly event: number };

/**
 * How far the kernel got: all bytes up to `doneBytes`, and the error that stopped it there, if any.
 */
export interface FillResult {
  readonly doneBytes: number;
  /** Such as EAGAIN, EEXIST, ESRCH, ENOENT or EFAULT; undefined if it did only a part, or all. */
  readonly errno: number | undefined;
}

/**
 * Opens a descriptor for memory of this process; it also reports ranges that this process gives
 * back.
 * @throws system error EPERM or ENOENT if this process may not do so, or if the kernel cannot.
 */
export function openUserfaultfd(): number {
  const device = openSync("/dev/userfaultfd", "r");
  try {
    const fd = check(ioctlNumber(device, USERFAULTFD_IOC_NEW, openFlags), "USERFAULTFD_IOC_NEW");
    const argument = struct(apiVersion, featureRemoveEvents, 0n);
    check(ioctlStruct(fd, UFFDIO_API, argument), "UFFDIO_API");
    return fd;
  } finally {
    closeSync(device);
  }
}

/**
 * From now on faults on missing pages of the range are sent to the descriptor.
 * @throws a system error
 */
export function registerWithUserfaultfd(fd: number, address: number, lengthBytes: number): void {
  const argument = struct(BigInt(address), BigInt(lengthBytes), modeMissing, 0n);
  check(ioctlStruct(fd, UFFDIO_REGISTER, argument), "UFFDIO_REGISTER");
}

/** The end that handles faults. It does not own the descriptor. */
export class Userfaults {
  readonly #fd: number;
  readonly #messages = Buffer.alloc(messagesMax * messageBytes);
  readonly #copy = new BigInt64Array(16);
  readonly #copyBytes = new Uint8Array(this.#copy.buffer);

  constructor(fd: number) {
    this.#fd = fd;
  }

  /**
   * Reads the waiting events, at most 64 at a time, in the kernel's order.
   * @throws a system error
   */
  read(): readonly UserfaultEvent[] {
    const length = read(this.#fd, this.#messages, this.#messages.length);
    if (length === -1) {
      const errno = lastErrno();
      if (errno === constants.errno.EAGAIN || errno === constants.errno.EINTR) return [];
      throw systemError(errno, "read of a userfaultfd");
    }
    const events: UserfaultEvent[] = [];
    for (let at = 0; at + messageBytes <= length; at += messageBytes) events.push(this.#parse(at));
    return events;
  }

  /**
   * Copies bytes of this process from `source` to the registered memory, and wakes the threads that
   * wait for them.
   */
  copy(address: number, source: number, lengthBytes: number): FillResult {
    const copy = this.#copy;
    copy[0] = BigInt(address);
    copy[1] = BigInt(source);
    copy[2] = BigInt(lengthBytes);
    copy[3] = 0n;
    copy[4] = 0n;
    return this.#fill(UFFDIO_COPY, 4, lengthBytes);
  }

  /**
   * Fills registered memory with zeros, which take no memory until they are written to, and wakes
   * the threads that wait.
   */
  zero(address: number, lengthBytes: number): FillResult {
    const copy = this.#copy;
    copy[0] = BigInt(address);
    copy[1] = BigInt(lengthBytes);
    copy[2] = 0n;
    copy[3] = 0n;
    return this.#fill(UFFDIO_ZEROPAGE, 3, lengthBytes);
  }

  /**
   * Wakes the threads that wait for these pages, so that they try again. Does nothing if the
   * process is gone.
   */
  wake(address: number, lengthBytes: number): void {
    this.#copy[0] = BigInt(address);
    this.#copy[1] = BigInt(lengthBytes);
    ioctlStruct(this.#fd, UFFDIO_WAKE, this.#copyBytes);
  }

  /** The kernel writes the number of bytes done, or a negative errno, into word `doneAt`. */
  #fill(request: number, doneAt: number, lengthBytes: number): FillResult {
    if (ioctlStruct(this.#fd, request, this.#copyBytes) === 0) {
      return { doneBytes: lengthBytes, errno: undefined };
    }
    const errno = lastErrno();
    const done = Number(this.#copy[doneAt]);
    // With EAGAIN the kernel reports the bytes done if there are any.
    if (done > 0) return { doneBytes: done, errno: undefined };
    return { doneBytes: 0, errno: done < 0 ? -done : errno };
  }

  #parse(at: number): UserfaultEvent {
    const event = this.#messages.readUInt8(at);
    if (event === eventPagefault) return { kind: "fault", address: this.#word(at + 16) };
    if (event !== eventRemove) return { kind: "other", event };
    return { kind: "remove", start: this.#word(at + 8), end: this.#word(at + 16) };
  }

  /** Addresses of processes are below 2^47, or 2^48 on arm64. */
  #word(at: number): number {
    return this.#messages.readUInt32LE(at) + this.#messages.readUInt32LE(at + 4) * 2 ** 32;
  }
}

function struct(...words: readonly bigint[]): Uint8Array {
  return new Uint8Array(BigUint64Array.from(words).buffer);
}
