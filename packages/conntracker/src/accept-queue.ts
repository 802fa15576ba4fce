/**
 * How many connections the kernel holds for a server that no process has accepted yet.
 *
 * The kernel completes handshakes by itself and queues them in order. A process that is slow, or stopped,
 * when its machine is frozen has such a queue, and the peers in it are gone like all others. Linux tells
 * its length in /proc/net/tcp (proc_pid_net(5)), as the bytes that wait to be read of a listening socket.
 *
 * A socket for connections from this machine alone has no such peers: both ends are restored together.
 */
import { closeSync, openSync, readSync } from "node:fs";
import type { Server } from "node:net";

const tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
/** Listening sockets come first: hundreds of them fit, and none of ten thousand connections is listed. */
const readBytes = 64 << 10;
/** The columns of a line: local address, and state (0A: listening) with both lengths in hexadecimal. */
const listeningLine =
  /^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:0000 0A [0-9A-F]{8}:([0-9A-F]{8}) /;

/** 0 where the kernel does not tell. Every listener on the port counts: too many is on the safe side. */
export function waitingCount(server: Server): number {
  const address = server.address();
  if (address === null || typeof address === "string") return 0;
  let count = 0;
  for (const line of tables.flatMap((path) => beginningOf(path).split("\n"))) {
    const [, port = "", waiting = ""] = listeningLine.exec(line) ?? [];
    if (Number.parseInt(port, 16) === address.port) count += Number.parseInt(waiting, 16);
  }
  return count;
}

function beginningOf(path: string): string {
  let fd: number | undefined;
  try {
    fd = openSync(path, "r");
    const bytes = Buffer.alloc(readBytes);
    let length = 0;
    for (let more = -1; more !== 0; length += more) {
      more = readSync(fd, bytes, length, readBytes - length, null);
    }
    return bytes.toString("latin1", 0, length);
  } catch {
    return "";
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
