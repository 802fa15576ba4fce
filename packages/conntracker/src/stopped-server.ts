/**
 * A server with a tracker in a process of its own, for tests that stop it. The parent says by IPC what to
 * do, so that a restore is announced by another way than the listener it is about.
 */
import { createServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { ServerConnTracker } from "./index.ts";

export interface ServerReport {
  /** Requests that reached the application. */
  readonly requests: number;
  /** The most sockets that were closed in one turn of the event loop. */
  readonly closedInTurnMax: number;
}

export type ServerCommand = "prepare" | "restore" | "report";

/** LIMIT: as many as Linux lets wait for one listener by default. */
const backlog = 4096;

const counts = { requests: 0, closedInTurnMax: 0 };
let closedInTurn = 0;

const server = createServer((request, response) => {
  counts.requests += 1;
  if (request.url === "/stream") response.write("begun");
  else response.end("served");
});
const tracker = new ServerConnTracker(server);
server.on("connection", (socket: Socket) => {
  socket.once("close", () => {
    if (closedInTurn === 0) setImmediate(() => (closedInTurn = 0));
    closedInTurn += 1;
    counts.closedInTurnMax = Math.max(counts.closedInTurnMax, closedInTurn);
  });
});

async function obey(command: ServerCommand): Promise<unknown> {
  if (command === "report") return counts;
  const done =
    command === "prepare" ? tracker.prepareForSnapshot() : tracker.restoreAfterSnapshot(1);
  await tracker.settled();
  return done;
}

process.on("message", (command: ServerCommand) => {
  void obey(command).then((answer) => process.send?.(answer));
});
server.listen({ port: 0, host: "0.0.0.0", backlog }, () => {
  process.send?.((server.address() as AddressInfo).port);
});
