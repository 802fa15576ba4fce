/**
 * Makes edges for all tests: the real listener and edge, with servers on this machine's loopback in
 * place of a guest's ports. The test itself pauses and wakes the sandbox behind it.
 */
import { once } from "node:events";
import {
  type IncomingHttpHeaders,
  type IncomingMessage,
  type RequestListener,
  type Server,
  createServer,
  request as httpRequest,
} from "node:http";
import { type AddressInfo, type Socket, connect } from "node:net";
import { GuestLink } from "@torpor/guest";
import { agentPort } from "@torpor/protocol";
import { Activity } from "../activity.ts";
import { type NetworkRequest, openNetwork } from "../network-request.ts";
import { Edge } from "./edge.ts";
import type { EdgeSandbox } from "./entrance.ts";
import type { ClientConnections } from "./client-connections.ts";
import { limitsFor } from "./limits.ts";
import { createListener } from "./listener.ts";
import { type Ending, Traffic } from "./traffic.ts";

/** The id of the sandbox that tests address. */
export const sandboxId = "itest";
/** Another sandbox, with the same servers behind its ports. */
export const otherSandboxId = "iother";
/** The port of the guest that requests address by default. */
export const userPort = 3000;

/** How the edge under test differs from the usual one. */
export interface TestEdgeOptions {
  readonly autoResume?: boolean;
  readonly accessToken?: string;
  readonly network?: Partial<NetworkRequest>;
  readonly transitionMs?: number;
  readonly domain?: string;
  /** How many descriptors the process could have open, for the edge's limits. */
  readonly descriptors?: number;
  /** Answers in place of the API. */
  readonly serveApi?: RequestListener;
}

/** A sandbox that a test moves; `EdgeSandbox` is what the edge sees of it. */
class FakeSandbox implements EdgeSandbox {
  record: EdgeSandbox["record"];
  run: { readonly traffic: Traffic; readonly link: GuestLink; isStalled?: boolean } | undefined;
  readonly activity = new Activity();
  /** How many times it was asked to wake. */
  resumes = 0;
  /** Awaited by each wake. */
  resumeWork: () => Promise<void> = async () => undefined;
  idle: Promise<void> = Promise.resolve();
  readonly #dial: (port: number) => Socket;

  constructor(id: string, options: TestEdgeOptions, dial: (port: number) => Socket) {
    this.#dial = dial;
    this.record = {
      id,
      hostKey: "host key",
      accessToken: options.accessToken ?? "token",
      autoResume: options.autoResume === true ? { timeoutMs: 300_000 } : null,
      network: options.network === undefined ? null : { ...openNetwork, ...options.network },
      state: { kind: "paused" },
    };
    this.start();
  }

  start(): void {
    const link = new GuestLink({ dial: this.#dial, hostKey: "host key" });
    this.run = { link, traffic: new Traffic(link) };
    this.record = { ...this.record, state: { kind: "running" } };
  }

  /** Ends this run, as the last step of a pause does. */
  end(ending: Ending = "paused"): void {
    this.run?.traffic.cut(ending);
    this.run?.link[Symbol.dispose]();
    this.run = undefined;
    this.record = { ...this.record, state: { kind: ending === "paused" ? "paused" : "failed" } };
  }

  async resume(): Promise<void> {
    this.resumes += 1;
    await this.resumeWork();
    this.start();
  }

  async whenIdle(): Promise<void> {
    await this.idle;
  }
}

/** An answer, read to its end. */
export interface TestAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
}

/** The edge under test. Disposing closes it and its servers. */
export interface TestEdge extends AsyncDisposable {
  readonly port: number;
  readonly sandbox: FakeSandbox;
  /** The listener itself. */
  readonly listener: Server;
  readonly connections: ClientConnections;
  /** Starts a server behind a port of the guest. */
  serve(port: number, handler: RequestListener | Server): Promise<Server>;
  /** Makes a port of the guest lead to a port of this machine's loopback. */
  lead(guestPort: number, port: number): void;
  /** The ports of the guest that were connected to so far. */
  readonly dials: readonly number[];
  /**
   * Sends a request that names the sandbox's `userPort` by its headers, unless `headers` replace
   * them.
   */
  send(path: string, options?: SendOptions): Promise<IncomingMessage>;
  get(path: string, options?: SendOptions): Promise<TestAnswer>;
  /** Opens a connection to the edge. */
  connect(): Promise<Socket>;
}

/** The parts of a request besides its path. */
export interface SendOptions {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Buffer;
}

/** The headers that name a port of a sandbox. */
export function addressed(port = userPort, id = sandboxId): Record<string, string> {
  return { "E2b-Sandbox-Id": id, "E2b-Sandbox-Port": String(port) };
}

/** Starts an edge on loopback, with both sandboxes running. */
export async function startTestEdge(options: TestEdgeOptions = {}): Promise<TestEdge> {
  await using undo = new AsyncDisposableStack();
  const upstreams = new Map<number, number>();
  const dials: number[] = [];
  const dial = (port: number): Socket => {
    dials.push(port);
    return connect(upstreams.get(port) ?? closedPort, "127.0.0.1");
  };
  const servers = new Set<Server>();
  undo.defer(() => {
    for (const server of servers) {
      server.close();
      server.closeAllConnections();
    }
  });
  const listen = async (server: Server): Promise<number> => {
    servers.add(server);
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return (server.address() as AddressInfo).port;
  };
  const sandbox = new FakeSandbox(sandboxId, options, dial);
  const other = new FakeSandbox(otherSandboxId, options, dial);
  undo.defer(() => [sandbox, other].forEach((one) => one.end("stopped")));
  const edge = new Edge({
    domain: options.domain ?? "localhost",
    find: (id) => [sandbox, other].find(({ record }) => record.id === id),
    transitionMs: options.transitionMs,
    limits: options.descriptors === undefined ? undefined : limitsFor(options.descriptors),
  });
  const listener = createListener(edge, options.serveApi ?? echoApi);
  const port = await listen(listener);
  const send = async (path: string, how: SendOptions = {}): Promise<IncomingMessage> => {
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const headers = how.headers ?? addressed();
    const outgoing = httpRequest({ port, host: "127.0.0.1", path, method: how.method, headers });
    outgoing.on("response", resolve);
    outgoing.on("error", reject);
    outgoing.end(how.body);
    return await promise;
  };
  const serve: TestEdge["serve"] = async (guestPort, handler) => {
    const server = typeof handler === "function" ? createServer(handler) : handler;
    upstreams.set(guestPort, await listen(server));
    return server;
  };
  await serve(agentPort, refuseTunnels());
  const owned = undo.move();
  return {
    port,
    sandbox,
    listener,
    connections: edge.connections,
    dials,
    serve,
    lead: (guestPort, to) => void upstreams.set(guestPort, to),
    send,
    get: async (path, how) => {
      const answer = await send(path, how);
      const text = await textOf(answer);
      return { status: answer.statusCode ?? 0, headers: answer.headers, text };
    },
    connect: async () => {
      const socket = connect(port, "127.0.0.1");
      await once(socket, "connect");
      return socket;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

const echoApi: RequestListener = (request, response) => response.end(`api ${request.url}`);

/** Reads a stream to its end, as text. */
export async function textOf(stream: AsyncIterable<unknown>): Promise<string> {
  let text = "";
  for await (const chunk of stream) text += String(chunk);
  return text;
}

/** No server listens there: the port is reserved for servers of the system. */
const closedPort = 1;

/** An agent that finds no server on the guest's loopback. */
function refuseTunnels(): Server {
  const server = createServer((_request, response) => response.end("agent"));
  server.on("connect", (_request, socket) => {
    socket.end("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
  });
  return server;
}
