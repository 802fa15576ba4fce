/**
 * A server in a guest that sends whatever bytes a test wants, and keeps what it was sent, connection by
 * connection. Requests are found in it by the reader that is not the edge's.
 */
import { once } from "node:events";
import { type AddressInfo, type Socket, createServer } from "node:net";
import { type ReadRequest, readRequests } from "./request-reader.ts";

/** Called for each whole request, in the order of its connection. */
export type Respond = (socket: Socket, request: ReadRequest) => void;

export interface RawGuest extends AsyncDisposable {
  readonly port: number;
  /** What answers from now on. */
  respond: Respond;
  /** All requests so far. */
  readonly requests: readonly ReadRequest[];
  /** What was sent that can never be read as a request. */
  readonly faults: readonly string[];
  forget(): void;
}

export async function startRawGuest(respond: Respond): Promise<RawGuest> {
  const sockets = new Map<Socket, string>();
  const requests: ReadRequest[] = [];
  const faults: string[] = [];
  const server = createServer((socket) => {
    sockets.set(socket, "");
    socket.on("error", () => socket.destroy());
    socket.on("close", () => sockets.delete(socket));
    socket.on("data", (chunk: Buffer) => {
      const text = (sockets.get(socket) ?? "") + chunk.toString("latin1");
      const reading = readRequests(text);
      sockets.set(socket, text.slice(reading.usedBytes));
      if (reading.stop === "broken") faults.push(text);
      for (const request of reading.requests) {
        requests.push(request);
        guest.respond(socket, request);
      }
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const guest: RawGuest = {
    port: (server.address() as AddressInfo).port,
    respond,
    requests,
    faults,
    forget: () => {
      requests.length = 0;
      faults.length = 0;
      for (const socket of sockets.keys()) socket.destroy();
      sockets.clear();
    },
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets.keys()) socket.destroy();
      server.close();
    },
  };
  return guest;
}

/** An answer that a client can read, and that leaves the connection open. */
export function sayHi(socket: Socket, { target }: ReadRequest): void {
  const body = `hi ${target}`;
  socket.write(
    `HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    "latin1",
  );
}
