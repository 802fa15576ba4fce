/**
 * Linux network namespaces for one thread, for as long as one synchronous call.
 *
 * A namespace belongs to a thread. `enter` switches Node's main thread, runs the function and
 * switches back before anything else can run, so that whatever the function creates (a socket, a
 * TAP device, a child process) lives in the namespace while the daemon itself never does.
 *
 * A namespace has no name and leaves nothing behind: it ends with the last process or file
 * descriptor that holds it.
 *
 * INVARIANT: `enter` is synchronous. An `await` inside it would leak the namespace into other work.
 */
import { closeSync, openSync } from "node:fs";
import { check, libc } from "./libc.ts";

const CLONE_NEWNET = 0x4000_0000;

const unshare = libc.func("int unshare(int flags)") as (flags: number) => number;
const setns = libc.func("int setns(int fd, int type)") as (fd: number, type: number) => number;

/** A descriptor of one network namespace; disposing closes it. */
export class NetworkNamespace implements Disposable {
  #fd: number | undefined;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** Makes a new, empty namespace. @throws EPERM without CAP_SYS_ADMIN. */
  static create(): NetworkNamespace {
    const home = openSync("/proc/thread-self/ns/net", "r");
    try {
      check(unshare(CLONE_NEWNET), "unshare");
      try {
        return new NetworkNamespace(openSync("/proc/thread-self/ns/net", "r"));
      } finally {
        check(setns(home, CLONE_NEWNET), "setns");
      }
    } finally {
      closeSync(home);
    }
  }

  /** Opens the namespace in which a running process lives. @throws ENOENT if it has ended. */
  static ofProcess(pid: number): NetworkNamespace {
    return new NetworkNamespace(openSync(`/proc/${pid}/ns/net`, "r"));
  }

  /** The descriptor, for use only: this object closes it. */
  get fd(): number {
    if (this.#fd === undefined) throw new Error("the network namespace is closed");
    return this.#fd;
  }

  /** Runs a synchronous function with this thread inside the namespace. @throws a system error */
  enter<T>(work: () => T): T {
    const { fd } = this;
    const home = openSync("/proc/thread-self/ns/net", "r");
    try {
      check(setns(fd, CLONE_NEWNET), "setns");
      try {
        return work();
      } finally {
        check(setns(home, CLONE_NEWNET), "setns");
      }
    } finally {
      closeSync(home);
    }
  }

  [Symbol.dispose](): void {
    if (this.#fd === undefined) return;
    closeSync(this.#fd);
    this.#fd = undefined;
  }
}
