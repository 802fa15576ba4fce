/**
 * LIMITS of the edge. What one caller may hold follows from what the process may hold: descriptors. Without
 * that a single client, or a single sandbox, could take them all, and nobody else would be served.
 *
 *     3/8  connections of clients, over all listeners of TCP
 *     1/4  exchanges with guests, each of which has a connection to one
 *     1/4  the guests' own connections to the outside: see passage-budget.ts of the network
 *     1/8  all else: the database, the VMs' control sockets and networks, idle connections to guests
 *
 * Who shows no token of the sandbox gets half of the exchanges at most, in all and of each sandbox, so
 * that those who do are served also where everybody else tries to keep them out.
 */
import { assert } from "@torpor/std";

/** Of the head of a request or an answer; cookies are what grows. */
export const headBytesMax = 64 * 1024;
/** Of a guest's interim answers before one that is final: nothing slows them down. */
export const interimMax = 32;
/** Streams may be silent for long; a peer whose machine is gone is found out after so much silence. */
export const deadPeerMs = 60_000;
/** Of one connection of HTTP/2 at once, as servers usually have it. */
export const streamsMax = 128;
/** What a client that was refused for want of room should wait. */
export const retryAfterSeconds = 1;
/** Above this no sandbox needs more, however much the machine allows. */
const exchangesPerSandboxMax = 10_000;

export interface EdgeLimits {
  /** Connections of clients at once. */
  readonly connections: number;
  /** Those of one address but the loopback, where a proxy may stand for everybody. */
  readonly connectionsPerAddress: number;
  /** Exchanges at once, from a request to the end of its answer. */
  readonly exchanges: number;
  readonly exchangesPerSandbox: number;
  /** Those without a token. */
  readonly strangers: number;
  readonly strangersPerSandbox: number;
  /** As `connectionsPerAddress`. */
  readonly strangersPerAddress: number;
}

/** @param descriptors What the process may have open. */
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
