/**
 * The connections of clients over TCP, from the first packet on: handshakes of TLS, heads and bodies that do
 * not come to an end, and idle ones count like those that carry a request.
 *
 * Where there are too many, of one address or in all, the one that has carried nothing for the longest is
 * closed for the new one, so that whoever only holds connections keeps nobody out. If all of them carry
 * something, the new one is closed.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { EdgeLimits } from "./limits.ts";
import { countedAddress } from "./shares.ts";

interface Connection {
  readonly socket: Socket;
  readonly peer: string;
  readonly group: Group | undefined;
  /** Requests that are under way on it. */
  requests: number;
}

/** Of one address. */
interface Group {
  readonly address: string;
  count: number;
  /** As `#idle`. */
  readonly idle: Set<Connection>;
}

export class ClientConnections {
  readonly #limits: EdgeLimits;
  readonly #byPeer = new Map<string, Connection>();
  readonly #groups = new Map<string, Group>();
  /** Those without a request, the one that has been so for the longest first. */
  readonly #idle = new Set<Connection>();

  constructor(limits: EdgeLimits) {
    this.#limits = limits;
  }

  get count(): number {
    return this.#byPeer.size;
  }

  /** A connection of a listener's, before anything is read from it. It may be closed at once. */
  admit(socket: Socket): void {
    const peer = peerOf(socket);
    // Of TLS a connection comes again when its handshake is done.
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

  /** Its connection is in use until the answer is over. */
  serve({ socket }: IncomingMessage, response: ServerResponse): void {
    const connection = this.#use(socket);
    if (connection === undefined) return;
    response.once("close", () => {
      connection.requests -= 1;
      const isThere = this.#byPeer.get(connection.peer) === connection;
      if (connection.requests === 0 && isThere) this.#rest(connection);
    });
  }

  /** For good: what it carries from now on is no HTTP. */
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
    // ORDER: its place is free at once; its "close" comes later.
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

/** The same of a connection, of TLS over it, and of the sockets that Node shows for HTTP/2. */
function peerOf({ remoteAddress, remotePort, localPort }: Socket): string | undefined {
  if (remoteAddress === undefined || remotePort === undefined) return undefined;
  return `${remoteAddress} ${remotePort} ${localPort}`;
}
