import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, type Server, type Socket, connect, createServer } from "node:net";
import { test } from "node:test";
import { hostKeyHeader } from "@torpor/protocol";
import { type TestAgent, startTestAgent, testKey } from "./fixtures.ts";

/** A user's server on the loopback that sends back what it gets. */
async function startEcho(): Promise<Server & AsyncDisposable> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => socket.destroy());
    socket.pipe(socket);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return server;
}

function portOf(server: Server): number {
  return (server.address() as AddressInfo).port;
}

async function ask(agent: TestAgent, authority: string, key = testKey, more = ""): Promise<Socket> {
  const socket = connect(agent.port, "127.0.0.1");
  socket.on("error", () => undefined);
  socket.write(
    `CONNECT ${authority} HTTP/1.1\r\nHost: x\r\n${hostKeyHeader}: ${key}\r\n\r\n${more}`,
  );
  return socket;
}

async function readUntil(socket: Socket, wanted: string): Promise<string> {
  let text = "";
  while (!text.includes(wanted)) {
    const [chunk] = (await once(socket, "data")) as [Buffer];
    text += chunk.toString("latin1");
  }
  return text;
}

/** A restore resets a connection, which `once` would take for a failure of the wait. */
async function closeOf(socket: Socket): Promise<void> {
  await new Promise<void>((closed) => socket.once("close", () => closed()));
}

test("a tunnel leads to a port of the guest's loopback, bytes sent early included", async () => {
  await using echo = await startEcho();
  await using agent = await startTestAgent();
  await agent.init();
  const socket = await ask(agent, `localhost:${portOf(echo)}`, testKey, "early ");
  assert.match(await readUntil(socket, "early"), /^HTTP\/1\.1 200/);
  socket.write("later");
  await readUntil(socket, "later");
  socket.end("last");
  assert.equal(await readUntil(socket, "last"), "last");
  await once(socket, "close");
});

test("it needs the host key, a port, and somebody who listens", async () => {
  await using echo = await startEcho();
  await using agent = await startTestAgent();
  const status = async (authority: string, key?: string): Promise<string> =>
    (await readUntil(await ask(agent, authority, key), "\r\n\r\n")).slice(9, 12);
  assert.equal(await status(`localhost:${portOf(echo)}`), "401", "before the first init");
  await agent.init();
  assert.equal(await status(`localhost:${portOf(echo)}`, "wrong"), "401");
  assert.equal(await status(`localhost:${portOf(echo)}`), "200");
  for (const wrong of ["localhost:0", "localhost:65536", "localhost", "10.0.0.1:80"]) {
    assert.equal(await status(wrong), "400", wrong);
  }
  assert.equal(await status("localhost:1"), "502");
});

test("none is opened at rest, and a restore ends those of before on both sides", async () => {
  await using echo = await startEcho();
  await using agent = await startTestAgent();
  await agent.init();
  const accepted = once(echo, "connection") as Promise<[Socket]>;
  const outer = await ask(agent, `localhost:${portOf(echo)}`);
  await readUntil(outer, "\r\n\r\n");
  const [inner] = await accepted;
  await agent.host("/snapshot/prepare");
  const late = await ask(agent, `localhost:${portOf(echo)}`);
  assert.match(await readUntil(late, "\r\n\r\n"), /^HTTP\/1\.1 503/);
  const closed = [closeOf(outer), closeOf(inner)];
  await agent.init({ generation: 2, reason: "resume" });
  await Promise.all(closed);
});
