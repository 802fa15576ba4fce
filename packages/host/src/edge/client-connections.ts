/**
 * The connections of clients over TCP, from the first packet on. TLS handshakes, heads and bodies
 * that never end, and idle connections count as much as connections that carry a request.
 *
 * When there are too many, from one address or in all, the edge closes the one that has been
 * without a request for the longest, and admits the new one, so that a client that only holds
 * connections keeps nobody out. If all of them carry a request, the new one is closed.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { EdgeLimits } from "./limits.ts";
import { countedAddress } from "./shares.ts";

interface Connection {
  readonly socket: Socket;
  readonly peer: string;
  readonly group: Group | undefined;
  /** Requests in progress on it. */
  requests: number;
}

/** The connections of one address. */
interface Group {
  readonly address: string;
  count: number;
  /** Idle connections of the address, in the same order as `#idle`. */
  readonly idle: Set<Connection>;
}

/** Counts and limits the connections of all listeners. */
export class ClientConnections {
  readonly #limits: EdgeLimits;
  readonly #byPeer = new Map<string, Connection>();
  readonly #groups = new Map<string, Group>();
  /** Connections without a request, the one that has been without one for the longest first. */
  readonly #idle = new Set<Connection>();

  constructor(limits: EdgeLimits) {
    this.#limits = limits;
  }

  /** All connections that are open now. */
  get count(): number {
    return this.#byPeer.size;
  }

  /**
   * Counts a new connection of a listener, before anything is read from it. May close it at once.
   */
  admit(socket: Socket): void {
    const peer = peerOf(socket);
    // A TLS connection is admitted again when its handshake is done.
    if (peer === undefined || this.#byPeer.has(peer)) return;
    const group = this.#groupOf(socket.remoteAddress);
    if (!this.#makeRoom(group)) {
      socket.destroy();
      return;
    }
    const connection = { socket, peer, group, requests: 0 };
    this.#byPeer.set(peer, connection);
    this.#rest(connection);
    if (group !== undefined) {
      group.count += 1;
      this.#groups.set(group.address, group);
    }
    socket.once("close", () => this.#forget(connection));
  }

  /** Marks the connection as in use until the answer is over. */
  serve({ socket }: IncomingMessage, response: ServerResponse): void {
    const connection = this.#use(socket);
    if (connection === undefined) return;
    response.once("close", () => {
      connection.requests -= 1;
      const isThere = this.#byPeer.get(connection.peer) === connection;
      if (connection.requests === 0 && isThere) this.#rest(connection);
    });
  }

  /** Marks the connection as in use for good: it no longer carries HTTP. */
  keep(socket: Socket): void {
    this.#use(socket);
  }

  #use(socket: Socket): Connection | undefined {
    const connection = this.#byPeer.get(peerOf(socket) ?? "");
    if (connection === undefined) return undefined;
    connection.requests += 1;
    this.#unrest(connection);
    return connection;
  }

  #groupOf(address: string | undefined): Group | undefined {
    const counted = countedAddress(address);
    if (counted === undefined) return undefined;
    return this.#groups.get(counted) ?? { address: counted, count: 0, idle: new Set() };
  }

  /** @returns false when there is none to close */
  #makeRoom(group: Group | undefined): boolean {
    const { connections, connectionsPerAddress } = this.#limits;
    if (group !== undefined && group.count >= connectionsPerAddress) {
      return this.#closeFirst(group.idle);
    }
    return this.count < connections || this.#closeFirst(this.#idle);
  }

  #closeFirst(idle: ReadonlySet<Connection>): boolean {
    const [first] = idle;
    if (first === undefined) return false;
    first.socket.destroy();
    // ORDER: its place is free at once; its "close" event comes later.
    this.#forget(first);
    return true;
  }

  #forget(connection: Connection): void {
    if (this.#byPeer.get(connection.peer) !== connection) return;
    this.#byPeer.delete(connection.peer);
    this.#unrest(connection);
    const { group } = connection;
    if (group === undefined) return;
    group.count -= 1;
    if (group.count === 0) this.#groups.delete(group.address);
  }

  #rest(connection: Connection): void {
    this.#idle.add(connection);
    connection.group?.idle.add(connection);
  }

  #unrest(connection: Connection): void {
    this.#idle.delete(connection);
    connection.group?.idle.delete(connection);
  }
}

/**
 * The same text for a connection, for TLS over it, and for the sockets that Node shows for HTTP/2.
 */
function peerOf({ remoteAddress, remotePort, localPort }: Socket): string | undefined {
  if (remoteAddress === undefined || remotePort === undefined) return undefined;
  return `${remoteAddress} ${remotePort} ${localPort}`;
}
