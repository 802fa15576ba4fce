import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import { test } from "node:test";
import { ClientConnections } from "./client-connections.ts";
import { limitsFor } from "./limits.ts";
import { startTestEdge, userPort } from "./fixtures.ts";

const limits = limitsFor(256);
let ports = 1;

/** The parts of a socket that count here. */
class Peer extends EventEmitter {
  readonly remoteAddress: string;
  readonly remotePort = (ports += 1);
  readonly localPort = 7330;
  isOpen = true;

  constructor(remoteAddress: string) {
    super();
    this.remoteAddress = remoteAddress;
  }

  destroy(): void {
    this.isOpen = false;
    this.emit("close");
  }

  get socket(): Socket {
    return this as unknown as Socket;
  }
}

function connect(connections: ClientConnections, address: string): Peer {
  const peer = new Peer(address);
  connections.admit(peer.socket);
  return peer;
}

/** @returns ends it */
function serve(connections: ClientConnections, { socket }: Peer): () => void {
  const response = new EventEmitter();
  connections.serve({ socket } as IncomingMessage, response as unknown as ServerResponse);
  return () => void response.emit("close");
}

const many = (count: number, make: () => Peer): readonly Peer[] =>
  Array.from({ length: count }, make);
const openOf = (peers: readonly Peer[]): number => peers.filter(({ isOpen }) => isOpen).length;

test("an address that has its share loses the connection that was idle longest for each new one", () => {
  const connections = new ClientConnections(limits);
  const peers = many(limits.connectionsPerAddress, () => connect(connections, "203.0.113.7"));
  const [first, second] = peers;
  assert.ok(first !== undefined && second !== undefined);
  const end = serve(connections, first);
  assert.ok(connect(connections, "203.0.113.7").isOpen);
  assert.deepEqual([first.isOpen, second.isOpen], [true, false]);
  assert.ok(connect(connections, "203.0.113.8").isOpen, "others have theirs");
  assert.equal(openOf(peers), limits.connectionsPerAddress - 1);
  end();
  assert.ok(connect(connections, "203.0.113.7").isOpen);
  assert.ok(first.isOpen, "it has just been used");
});

test("a new connection is closed where all of its address carry requests", () => {
  const connections = new ClientConnections(limits);
  const peers = many(limits.connectionsPerAddress, () => connect(connections, "203.0.113.7"));
  for (const peer of peers) serve(connections, peer);
  assert.ok(!connect(connections, "203.0.113.7").isOpen);
  assert.equal(openOf(peers), peers.length);
  assert.equal(connections.count, peers.length);
});

test("all addresses together have no more than the whole, and the loopback all that is free of it", () => {
  const connections = new ClientConnections(limits);
  const peers = many(2 * limits.connections, () => connect(connections, "127.0.0.1"));
  assert.equal(openOf(peers), limits.connections);
  assert.ok(peers.at(-1)?.isOpen);
  assert.ok(connect(connections, "203.0.113.7").isOpen);
  assert.equal(connections.count, limits.connections);
});

test("what is closed is counted no longer, and TLS over a connection is not counted again", () => {
  const connections = new ClientConnections(limits);
  const peer = connect(connections, "203.0.113.7");
  connections.admit(peer.socket);
  assert.equal(connections.count, 1);
  const end = serve(connections, peer);
  peer.destroy();
  end();
  assert.equal(connections.count, 0);
  const later = many(limits.connectionsPerAddress, () => connect(connections, "203.0.113.7"));
  assert.equal(openOf(later), limits.connectionsPerAddress);
});

test("clients that send half a head, or nothing, keep nobody out", async () => {
  await using edge = await startTestEdge({ descriptors: 256 });
  await edge.serve(userPort, (_request, response) => response.end("hello"));
  for (let index = 0; index < 3 * limits.connections; index += 1) {
    const socket = await edge.connect();
    socket.on("error", () => undefined);
    if (index % 2 === 0) socket.write("GET / HTTP/1.1\r\nHost: localhost\r\nX-Half: ");
    if (index % 50 === 0) assert.equal((await edge.get("/")).text, "hello");
  }
  assert.equal((await edge.get("/")).text, "hello");
  assert.ok(edge.connections.count <= limits.connections);
});

test("a connection that carries a WebSocket is not closed for a new one", async () => {
  await using edge = await startTestEdge({ descriptors: 256 });
  const server = await edge.serve(userPort, (_request, response) => response.end());
  server.on("upgrade", (_request, socket) => {
    socket.write("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n");
    socket.pipe(socket);
  });
  const upgraded = await edge.connect();
  upgraded.write(
    "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: raw\r\n" +
      `E2b-Sandbox-Id: itest\r\nE2b-Sandbox-Port: ${userPort}\r\n\r\n`,
  );
  await once(upgraded, "data");
  for (let index = 0; index < 2 * limits.connections; index += 1) {
    (await edge.connect()).on("error", () => undefined);
  }
  upgraded.write("still here");
  assert.equal(String(((await once(upgraded, "data")) as [Buffer])[0]), "still here");
});
