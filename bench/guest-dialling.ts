/**
 * Connections to a guest past daemon and edge: into the network of its VM, as the daemon itself
 * connects.
 */
import { Socket } from "node:net";
import { NetworkNamespace, openTcpSocket } from "@torpor/native";
import { guestAddress } from "@torpor/protocol";
import type { SdkDaemon } from "./sdk-daemon.ts";

/** Only root can enter a guest's network; without root no network leads to every port. */
export const canDial = process.getuid?.() === 0;

/** The process whose network namespace leads to the guest. */
export async function vmPid({ api }: SdkDaemon, sandboxId: string): Promise<number> {
  const info = (await api.list()).find(({ id }) => id === sandboxId);
  if (typeof info?.pid !== "number") throw new Error(`sandbox ${sandboxId} is not running`);
  return info.pid;
}

/** Returns a function that connects to a port of the guest, until `undo`. */
export function dialInto(pid: number, undo: AsyncDisposableStack): (port: number) => Socket {
  const namespace = undo.use(NetworkNamespace.ofProcess(pid));
  return (port) => new Socket({ fd: namespace.enter(openTcpSocket) }).connect(port, guestAddress);
}
