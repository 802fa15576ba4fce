/**
 * Sees the upgrades and CONNECTs of a server without being the listener that turns them on.
 *
 * Node treats `Upgrade:` as an ordinary request, and refuses CONNECT, unless "upgrade" or "connect"
 * has a listener. So this file listens exactly while somebody else does: it joins in front of the
 * first listener of the application and leaves with the last.
 */
import type { EventEmitter } from "node:events";
import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";

const upgradeEvents: readonly (string | symbol)[] = ["upgrade", "connect"];

/** Calls `onUpgrade` with the socket of every upgrade. Returns the function that stops it. */
export function watchUpgrades(
  server: EventEmitter,
  onUpgrade: (socket: Socket) => void,
): () => void {
  const watch = (request: IncomingMessage): void => onUpgrade(request.socket);
  const watches = (event: string | symbol): boolean => server.listeners(event).includes(watch);
  const join = (event: string | symbol, listener: unknown): void => {
    if (!upgradeEvents.includes(event) || listener === watch || watches(event)) return;
    server.prependListener(event, watch);
  };
  const leave = (event: string | symbol): void => {
    if (!upgradeEvents.includes(event) || server.listenerCount(event) > 1) return;
    server.off(event, watch);
  };
  for (const event of upgradeEvents) if (server.listenerCount(event) > 0) join(event, undefined);
  server.on("newListener", join);
  server.on("removeListener", leave);
  return () => {
    server.off("newListener", join);
    server.off("removeListener", leave);
    for (const event of upgradeEvents) server.off(event, watch);
  };
}
