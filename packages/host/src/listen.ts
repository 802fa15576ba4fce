/** Where the daemon listens: TCP ports, and a Unix socket for any process that may open it. */
import { once } from "node:events";
import { rm } from "node:fs/promises";
import type { AddressInfo, Server } from "node:net";
import { TorporError, systemCode } from "@torpor/std";

/** LIMIT: the kernel's `sun_path`, less its final zero. */
const socketPathBytesMax = 107;

/**
 * Listens on a TCP port.
 * @param port 0 lets the kernel choose.
 * @returns the port
 * @throws port.inUse, network.failed
 */
export async function listenTcp(server: Server, address: string, port: number): Promise<number> {
  try {
    server.listen(port, address);
    await once(server, "listening");
  } catch (cause) {
    if (systemCode(cause) !== "EADDRINUSE") throw TorporError.from(cause, "network.failed");
    throw new TorporError("port.inUse", `port ${port} of ${address} is taken`, { cause });
  }
  return (server.address() as AddressInfo).port;
}

/**
 * Listens on a Unix socket that only its owner can open. Removes any file at the path: the caller
 * holds a lock, so no other daemon listens there.
 * @throws argument.invalid for a path that is too long
 */
export async function listenUnix(server: Server, path: string): Promise<void> {
  if (Buffer.byteLength(path) > socketPathBytesMax) {
    throw new TorporError("argument.invalid", `${path} is too long for a socket`, {
      advice: "Set TORPOR_HOME to a shorter path.",
    });
  }
  await rm(path, { force: true });
  const umask = process.umask(0o077);
  server.listen(path);
  process.umask(umask);
  await once(server, "listening");
}
