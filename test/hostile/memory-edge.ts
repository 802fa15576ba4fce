/**
 * The real edge and its listener between a client and a guest that are both in memory: no sockets, so that
 * many inputs take little time. The guest's side is read by the reader that is not the edge's.
 */
import { Duplex, duplexPair } from "node:stream";
import { Activity } from "../../packages/host/src/activity.ts";
import { Edge } from "../../packages/host/src/edge/edge.ts";
import { createListener } from "../../packages/host/src/edge/listener.ts";
import { Traffic } from "../../packages/host/src/edge/traffic.ts";
import { type ReadRequest, readRequests } from "./request-reader.ts";

const sandboxId = "itest";
export const fuzzHost = `80-${sandboxId}.localhost`;

/** Writes an answer to a request. */
export type Answer = (line: Duplex, request: ReadRequest) => void;

export interface MemoryEdge extends Disposable {
  answer: Answer;
  readonly requests: ReadRequest[];
  /** What reached the guest and can never be read as a request. */
  readonly faults: string[];
  /** A client's end of a new connection. */
  connect(): Duplex;
}

export function startMemoryEdge(answer: Answer): MemoryEdge {
  const requests: ReadRequest[] = [];
  const faults: string[] = [];
  const lines = new Set<Duplex>();
  const serveGuest = (line: Duplex): void => {
    let text = "";
    lines.add(line);
    line.on("error", () => line.destroy());
    line.once("close", () => lines.delete(line));
    line.on("data", (chunk: Buffer) => {
      const reading = readRequests(text + chunk.toString("latin1"));
      text = (text + chunk.toString("latin1")).slice(reading.usedBytes);
      if (reading.stop === "broken") faults.push(text);
      for (const request of reading.requests) {
        requests.push(request);
        guest.answer(line, request);
      }
    });
  };
  const traffic = new Traffic({
    connect: async () => {
      const [own, other] = pair();
      serveGuest(other);
      return own as never; // a stream is all that the edge needs of a socket
    },
  });
  const sandbox = {
    record: {
      id: sandboxId,
      hostKey: "key",
      accessToken: null,
      autoResume: null,
      network: null,
      state: { kind: "running" as const },
    },
    run: { traffic },
    activity: new Activity(),
    resume: async () => undefined,
    whenIdle: async () => undefined,
  };
  const edge = new Edge({ domain: "localhost", find: () => sandbox });
  const listener = createListener(edge, (_request, response) => void response.end("api"));
  listener.on("clientError", (_cause, socket) => void socket.destroy());
  const guest: MemoryEdge = {
    answer,
    requests,
    faults,
    connect: () => {
      const [client, server] = pair();
      client.on("error", () => client.destroy());
      listener.emit("connection", server);
      return client;
    },
    [Symbol.dispose]: () => {
      for (const line of lines) line.destroy();
      traffic[Symbol.dispose]();
      listener.closeAllConnections();
    },
  };
  return guest;
}

/** The close of either end is the close of both, as with sockets. */
function pair(): [Duplex, Duplex] {
  const [one, other] = duplexPair();
  one.once("close", () => void setImmediate(() => other.destroy()));
  other.once("close", () => void setImmediate(() => one.destroy()));
  return [one, other];
}
