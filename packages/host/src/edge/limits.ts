/**
 * LIMITS of the edge. They follow from the number of descriptors that the process may hold. Without
 * them a single client, or a single sandbox, could take them all, and no other would be served.
 *
 *     3/8  connections of clients, over all listeners of TCP
 *     1/4  exchanges with guests, each of which has a connection to one
 *     1/4  the guests' own connections to the outside: see passage-budget.ts of the network
 *     1/8  all else: the database, the VMs' control sockets and networks, idle connections to guests
 *
 * Clients without a token of the sandbox get at most half of the exchanges, in all and of each
 * sandbox, so that clients with a token are served even when all others try to keep them out.
 */
import { assert } from "@torpor/std";

/** LIMIT: bytes of the head of a request or an answer; cookies are the part that grows. */
export const headBytesMax = 64 * 1024;
/** LIMIT: a guest's interim answers before the final one; nothing else slows them down. */
export const interimMax = 32;
/**
 * Silence after which TCP checks whether the peer is alive. Streams may be silent for long, and a
 * peer whose machine is gone sends no close.
 */
export const deadPeerMs = 60_000;
/** LIMIT: concurrent streams of one connection of HTTP/2, as servers usually have it. */
export const streamsMax = 128;
/**
 * LIMIT: requests of one connection of HTTP/1 that wait for their answers, which is as many as over
 * HTTP/2. More would let one connection fill a sandbox's share.
 */
export const pipelinedMax = streamsMax;
/** How long a client that was refused for lack of room should wait. */
export const retryAfterSeconds = 1;
/** LIMIT: no sandbox needs more, however much the machine allows. */
const exchangesPerSandboxMax = 10_000;

/** How much clients may hold at once. */
export interface EdgeLimits {
  /** Connections of clients. */
  readonly connections: number;
  /** Connections of one address, except the loopback, where a proxy may act for many clients. */
  readonly connectionsPerAddress: number;
  /** Exchanges, each from a request to the end of its answer. */
  readonly exchanges: number;
  readonly exchangesPerSandbox: number;
  /** Exchanges without a token. */
  readonly strangers: number;
  readonly strangersPerSandbox: number;
  /** Exchanges without a token of one address, except the loopback. */
  readonly strangersPerAddress: number;
}

/** Divides the descriptors up. @param descriptors How many the process may have open. */
export function limitsFor(descriptors: number): EdgeLimits {
  const connections = Math.floor((descriptors * 3) / 8);
  const exchanges = Math.floor(descriptors / 4);
  const exchangesPerSandbox = Math.min(Math.ceil(exchanges / 4), exchangesPerSandboxMax);
  const limits = {
    connections,
    connectionsPerAddress: Math.ceil(connections / 4),
    exchanges,
    exchangesPerSandbox,
    strangers: Math.ceil(exchanges / 2),
    strangersPerSandbox: Math.ceil(exchangesPerSandbox / 2),
    strangersPerAddress: Math.ceil(exchanges / 8),
  };
  assert(limits.exchanges < limits.connections, "whoever is refused still has a connection");
  assert(connections + exchanges <= descriptors * (5 / 8), "the rest of the daemon has its part");
  return limits;
}
