/**
 * What lies in the folder of a VM's run.
 *
 * SAFETY: the folder is the VM process's own, and a hole in QEMU may have put anything in the place of a
 * file: a link to a file of the host's, a pipe that never gives an answer, or a link to the socket of
 * another VM. Nothing in it is opened but by `openRunFile` and `connectRunSocket`.
 */
import { once } from "node:events";
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { type Socket, connect } from "node:net";
import { type Deadline, TorporError, systemCode } from "@torpor/std";

export const runFiles = {
  control: "qmp.sock",
  console: "console.log",
  log: "vmm.log",
} as const;

const { O_RDONLY, O_WRONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
const connectRetryMs = 2;
/** fcntl.h; a descriptor that only names what is there, a link too. */
const O_PATH = 0x20_0000;

/** @throws system error ELOOP when it is a link, ENOENT when there is none */
export async function openRunFile(path: string, access: "read" | "write"): Promise<FileHandle> {
  const flags = access === "read" ? O_RDONLY : O_WRONLY;
  return await open(path, flags | O_NOFOLLOW | O_NONBLOCK);
}

/**
 * The caller destroys the socket.
 * @throws vmm.failed when something else is there; system error ENOENT, ECONNREFUSED
 */
export async function connectRunSocket(path: string, deadline: Deadline): Promise<Socket> {
  await using file = await open(path, O_PATH | O_NOFOLLOW);
  if (!(await file.stat()).isSocket()) {
    throw new TorporError("vmm.failed", `${path} is no socket`, { effect: "none" });
  }
  using undo = new DisposableStack();
  // What was looked at, and not what may have taken its place since.
  const socket = undo.adopt(connect(`/proc/self/fd/${file.fd}`), (one) => one.destroy());
  await deadline.race(once(socket, "connect"));
  undo.move();
  return socket;
}

/**
 * Waits for the socket to appear, as long as `alive` says that somebody may still make it.
 * @param maker What is to make it, for the error.
 * @throws vmm.exited, vmm.failed when something else is there
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

/** The end of a log, which a guest may have made as long as it likes; empty when there is none. */
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
