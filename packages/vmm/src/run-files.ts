/**
 * The files in the folder of a VM's run.
 *
 * SAFETY: the folder belongs to the VM process, and an attacker who has taken over QEMU may have
 * replaced any file: by a link to a file of the host, a pipe that never answers, or a link to the
 * socket of another VM. Open files in it only with `openRunFile` and `connectRunSocket`.
 */
import { once } from "node:events";
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { type Socket, connect } from "node:net";
import { type Deadline, TorporError, systemCode } from "@torpor/std";

/** Names of the files in a run's folder. */
export const runFiles = {
  control: "qmp.sock",
  console: "console.log",
  log: "vmm.log",
} as const;

const { O_RDONLY, O_WRONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
const connectRetryMs = 2;
/** From fcntl.h: a descriptor that only identifies what is at a path, even a link. */
const O_PATH = 0x20_0000;

/**
 * Opens a file of a run's folder, without following a link and without waiting for a pipe.
 * @throws system error ELOOP if it is a link, ENOENT if there is none
 */
export async function openRunFile(path: string, access: "read" | "write"): Promise<FileHandle> {
  const flags = access === "read" ? O_RDONLY : O_WRONLY;
  return await open(path, flags | O_NOFOLLOW | O_NONBLOCK);
}

/**
 * Connects to a Unix socket in a run's folder. The caller destroys the socket.
 * @throws vmm.failed if something else is there; system error ENOENT, ECONNREFUSED
 */
export async function connectRunSocket(path: string, deadline: Deadline): Promise<Socket> {
  await using file = await open(path, O_PATH | O_NOFOLLOW);
  if (!(await file.stat()).isSocket()) {
    throw new TorporError("vmm.failed", `${path} is no socket`, { effect: "none" });
  }
  using undo = new DisposableStack();
  // Connect to the file that was checked, not to one that may have replaced it since.
  const socket = undo.adopt(connect(`/proc/self/fd/${file.fd}`), (one) => one.destroy());
  await deadline.race(once(socket, "connect"));
  undo.move();
  return socket;
}

/**
 * Waits for the socket to appear, as long as `alive` says that its maker may still create it.
 * @param maker The program that creates it, for the error message.
 * @throws vmm.exited; vmm.failed if something else is there
 */
export async function awaitRunSocket(
  path: string,
  maker: string,
  alive: () => boolean,
  deadline: Deadline,
): Promise<Socket> {
  for (;;) {
    try {
      return await connectRunSocket(path, deadline);
    } catch (cause) {
      const code = systemCode(cause);
      if (code !== "ENOENT" && code !== "ECONNREFUSED") throw cause;
      if (!alive()) throw new TorporError("vmm.exited", `${maker} ended before it answered`);
      deadline.check();
      await deadline.sleep(connectRetryMs);
    }
  }
}

/** The end of a log, which a guest may have made as long as it likes; empty if there is none. */
export async function readTail(path: string, bytesMax: number): Promise<string> {
  try {
    await using file = await openRunFile(path, "read");
    const { size } = await file.stat();
    const length = Math.min(size, bytesMax);
    const { buffer } = await file.read(Buffer.alloc(length), 0, length, size - length);
    return buffer.toString("utf8");
  } catch (error) {
    if (systemCode(error) === "ENOENT") return "";
    throw error;
  }
}
