/** One request on its way to a guest, by Node's HTTP client, until the head of its answer is there. */
import { type ClientRequest, type IncomingMessage, request as httpRequest } from "node:http";
import type { Duplex } from "node:stream";
import { TorporError } from "@torpor/std";
import type { GuestPool } from "./guest-pool.ts";
import { headBytesMax } from "./limits.ts";

export interface GuestRequestOptions {
  readonly pool: GuestPool;
  readonly port: number;
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  /** Names and values in turn. */
  readonly headers: readonly string[];
}

export interface GuestAnswer {
  readonly head: IncomingMessage;
  /** Set when the guest changed protocols: the connection, and what it has sent on it already. */
  readonly upgraded?: { readonly socket: Duplex; readonly first: Buffer };
}

export interface GuestRequest {
  readonly outgoing: ClientRequest;
  readonly answered: Promise<GuestAnswer>;
}

/** @throws (by `answered`) guest.portClosed, guest.unreachable, or Node's error of the connection */
export function sendToGuest(options: GuestRequestOptions): GuestRequest {
  const { pool, port, method, path, headers } = options;
  const outgoing = httpRequest({
    agent: pool,
    host: "guest",
    port,
    method,
    path,
    headers,
    setDefaultHeaders: false,
    maxHeaderSize: headBytesMax,
  });
  const { promise, resolve, reject } = Promise.withResolvers<GuestAnswer>();
  let isAnswered = false;
  outgoing.on("response", (head) => {
    isAnswered = true;
    resolve({ head });
  });
  if (headers.includes("Upgrade")) {
    outgoing.on("upgrade", (head, socket, first) => resolve({ head, upgraded: { socket, first } }));
  }
  outgoing.on("error", reject);
  // The only news of an answer that changes protocols unasked.
  outgoing.once("close", () => {
    if (isAnswered) return; // the usual end, and an error is dear to make
    reject(new TorporError("guest.unreachable", "the guest closed without an answer"));
  });
  return { outgoing, answered: promise };
}
