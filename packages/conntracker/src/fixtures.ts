/**
 * Real servers and raw clients for the tests: every byte on the wire is the test's own.
 *
 * Nothing here sleeps. A test waits for an event, or for a fact with `until`, which looks once per
 * turn of the event loop and gives up only where a test has failed anyway.
 */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { type IncomingMessage, type ServerResponse, createServer } from "node:http";
import { createSecureServer, createServer as createHttp2Server } from "node:http2";
import { createServer as createHttpsServer } from "node:https";
import { type AddressInfo, type Socket, connect as connectTcp } from "node:net";
import type { TestContext } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { connect as connectTls } from "node:tls";
import { ServerConnTracker, type TrackableServer } from "./index.ts";

const testKey: string = read("localhost.key.pem");
export const testCertificate: string = read("localhost.cert.pem");
const identity = { key: testKey, cert: testCertificate };

/** LIMIT: far above what a loaded machine needs, and short enough for a failing test to end. */
const hopelessMs = 20_000;

/** How HTTP/1 reaches the server under test. */
export const http1Servers = {
  http: { secure: false, create: (): TrackableServer => createServer() },
  https: { secure: true, create: (): TrackableServer => createHttpsServer(identity) },
  "http2 with allowHTTP1": {
    secure: true,
    create: (): TrackableServer => createSecureServer({ ...identity, allowHTTP1: true }),
  },
} as const;

export const http2Servers = {
  "http2 in clear": { secure: false, create: (): TrackableServer => createHttp2Server() },
  "http2 over TLS": {
    secure: true,
    create: (): TrackableServer => createSecureServer({ ...identity, allowHTTP1: true }),
  },
} as const;

/** One request that reached the server, to be answered by the test. */
export interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
}

export class Fixture {
  readonly server: TrackableServer;
  readonly tracker: ServerConnTracker;
  readonly secure: boolean;
  readonly #exchanges: Exchange[] = [];
  readonly #accepted: Socket[] = [];

  private constructor(server: TrackableServer, secure: boolean) {
    this.server = server;
    this.secure = secure;
    this.tracker = new ServerConnTracker(server);
    server.on("connection", (socket: Socket) => this.#accepted.push(socket));
    server.on("request", (request: IncomingMessage, response: ServerResponse) => {
      this.#exchanges.push({ request, response });
    });
  }

  /** A listening server with a tracker, ended with the test. */
  static async start(
    t: TestContext,
    kind: { readonly secure: boolean; create(): TrackableServer },
  ): Promise<Fixture> {
    const fixture = new Fixture(kind.create(), kind.secure);
    fixture.server.listen(0, "127.0.0.1");
    await once(fixture.server, "listening");
    t.after(() => fixture.#stop());
    return fixture;
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  /** The next request that no earlier call has returned. */
  async next(): Promise<Exchange> {
    return until(() => this.#exchanges.shift());
  }

  /** The sockets as the kernel handed them out, oldest first. */
  get accepted(): readonly Socket[] {
    return this.#accepted;
  }

  /** A client whose connection the server has accepted, and whose handshake is done. */
  async connect(): Promise<RawClient> {
    const before = this.#accepted.length;
    const client = new RawClient(
      this.secure
        ? connectTls({ port: this.port, host: "127.0.0.1", ca: testCertificate })
        : connectTcp(this.port, "127.0.0.1"),
    );
    await once(client.socket, this.secure ? "secureConnect" : "connect");
    await until(() => this.#accepted.length > before);
    return client;
  }

  /**
   * A TCP client of any server: over TLS, its handshake never begins. With `allowHalfOpen` it never
   * closes its side either.
   */
  async connectTcp(options: { allowHalfOpen?: boolean } = {}): Promise<RawClient> {
    const before = this.#accepted.length;
    const client = new RawClient(connectTcp({ port: this.port, host: "127.0.0.1", ...options }));
    await once(client.socket, "connect");
    await until(() => this.#accepted.length > before);
    return client;
  }

  /** Waits until the server has taken `text` (or more) off the connection of `client`. */
  async send(client: RawClient, text: string): Promise<void> {
    const socket = this.#accepted.find((one) => one.remotePort === client.localPort);
    const target = (socket?.bytesRead ?? 0) + Buffer.byteLength(text);
    client.socket.write(text);
    await until(() => socket === undefined || socket.bytesRead >= target);
  }

  async #stop(): Promise<void> {
    for (const socket of this.#accepted) socket.destroy();
    this.server.close();
    await once(this.server, "close");
  }
}

/** A client that speaks whatever it is told, and remembers what it heard. */
export class RawClient {
  readonly socket: Socket;
  #heard = "";
  #closed = false;
  #failure: string | undefined;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.setEncoding("latin1");
    socket.on("data", (text: string) => (this.#heard += text));
    socket.on("error", ({ code }: NodeJS.ErrnoException) => (this.#failure = code));
    socket.once("close", () => (this.#closed = true));
  }

  /** Everything received so far. */
  get heard(): string {
    return this.#heard;
  }

  get localPort(): number | undefined {
    return this.socket.localPort;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** The code of the error that closed it, if any did. */
  get failure(): string | undefined {
    return this.#failure;
  }

  /** Waits until `text` has been received, and returns and forgets everything received. */
  async hear(text: string): Promise<string> {
    await until(() => this.#heard.includes(text));
    const heard = this.#heard;
    this.#heard = "";
    return heard;
  }

  /** Waits for the server to close the connection. */
  async end(): Promise<void> {
    await until(() => this.#closed);
  }
}

/**
 * Waits for `look` to return something true, looking once per turn of the event loop.
 * @throws when that takes so long that it never will.
 */
export async function until<T>(look: () => T | undefined | false): Promise<T> {
  const startedMonoMs = performance.now();
  while (performance.now() - startedMonoMs < hopelessMs) {
    const found = look();
    if (found !== undefined && found !== false) return found;
    await nextTurn();
  }
  throw new Error(`still waiting after ${hopelessMs} ms for: ${look.toString()}`);
}

function read(name: string): string {
  return readFileSync(new URL(`./testdata/${name}`, import.meta.url), "utf8");
}
