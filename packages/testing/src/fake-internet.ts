/**
 * An internet of a few hosts, for sandboxes of tests: each host is a server on the loopback, known
 * by an address that belongs to nobody. Nothing leaves the machine.
 */
import { once } from "node:events";
import { type AddressInfo, type Server, type Socket, connect, createServer } from "node:net";
import { type AddressRange, type Outside, type ResolvedAddress, range } from "@torpor/network";

/** A port of the loopback without a listener: a connection to it is refused at once. */
const closedPort = 1;

/** The destination of a connection. */
export interface Asked {
  readonly address: string;
  readonly port: number;
}

/** The hosts, and a record of what the sandboxes asked for. */
export class FakeInternet implements Outside, AsyncDisposable {
  /** Destinations of all requested connections, in order. */
  readonly asked: Asked[] = [];
  /** All names that were looked up, in order. */
  readonly resolved: string[] = [];
  readonly #hosts = new Map<string, Server>();
  readonly #names = new Map<string, readonly ResolvedAddress[]>();
  /** Addresses and networks of the host. */
  near: readonly AddressRange[];

  constructor(near: readonly string[] = []) {
    this.near = near.map(range);
  }

  /** From now on `serve` handles connections to this address and port. */
  async addHost(address: string, port: number, serve: (socket: Socket) => void): Promise<void> {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on("error", () => undefined);
      serve(socket);
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    this.#hosts.set(`${address}:${port}`, server);
  }

  addName(name: string, ...addresses: readonly string[]): void {
    this.#names.set(
      name,
      addresses.map((address) => ({ address, ttlSeconds: 300 })),
    );
  }

  connect(address: string, port: number): Socket {
    this.asked.push({ address, port });
    const server = this.#hosts.get(`${address}:${port}`);
    const to = server === undefined ? closedPort : (server.address() as AddressInfo).port;
    return connect({ host: "127.0.0.1", port: to, allowHalfOpen: true });
  }

  async resolve(name: string): Promise<readonly ResolvedAddress[]> {
    this.resolved.push(name);
    const found = this.#names.get(name.toLowerCase());
    if (found === undefined) throw Object.assign(new Error("no such name"), { code: "ENOTFOUND" });
    return found;
  }

  nearRanges(): readonly AddressRange[] {
    return this.near;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.#hosts.values()) server.close();
  }
}
