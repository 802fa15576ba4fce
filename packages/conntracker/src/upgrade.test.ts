/** Upgraded and CONNECT connections, which `server.closeAllConnections()` does not know. */
import assert from "node:assert/strict";
import type { EventEmitter } from "node:events";
import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { Fixture, type RawClient, http1Servers, until } from "./fixtures.ts";

const requests = {
  upgrade: "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
  connect: "CONNECT there:80 HTTP/1.1\r\nHost: there\r\n\r\n",
} as const;
type UpgradeEvent = keyof typeof requests;

/** Answers with 101, then with every byte it receives. */
function echo(request: IncomingMessage, socket: Socket): void {
  socket.write(`HTTP/1.1 101 ${request.method}\r\n\r\n`);
  socket.pipe(socket);
}

async function upgraded(
  t: TestContext,
  server: keyof typeof http1Servers,
  event: UpgradeEvent,
): Promise<[Fixture, RawClient]> {
  const fixture = await Fixture.start(t, http1Servers[server]);
  (fixture.server as EventEmitter).on(event, echo);
  const client = await fixture.connect();
  await fixture.send(client, requests[event]);
  await client.hear("HTTP/1.1 101");
  assert.equal(fixture.tracker.counts().upgraded, 1);
  return [fixture, client];
}

const servers = Object.keys(http1Servers) as (keyof typeof http1Servers)[];
const events = Object.keys(requests) as UpgradeEvent[];

for (const server of servers) {
  for (const event of events) {
    test(`prepareForSnapshot() records, and leaves alone, after "${event}" [${server}]`, async (t) => {
      const [fixture, client] = await upgraded(t, server, event);
      assert.deepEqual(fixture.tracker.prepareForSnapshot(), { closed: 0, recorded: 1 });
      client.socket.write("still here");
      await client.hear("still here");
    });

    test(`restoreAfterSnapshot() destroys after "${event}" [${server}]`, async (t) => {
      const [fixture, client] = await upgraded(t, server, event);
      fixture.tracker.prepareForSnapshot();
      assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 1 });
      await client.end();
    });

    test(`cancel() changes nothing after "${event}" [${server}]`, async (t) => {
      const [fixture, client] = await upgraded(t, server, event);
      fixture.tracker.prepareForSnapshot();
      fixture.tracker.cancel();
      client.socket.write("still here");
      await client.hear("still here");
      assert.equal(fixture.tracker.counts().upgraded, 1);
    });
  }
}

test("a connection upgraded after prepareForSnapshot() is destroyed by the restore", async (t) => {
  const fixture = await Fixture.start(t, http1Servers.http);
  fixture.tracker.prepareForSnapshot();
  (fixture.server as EventEmitter).on("upgrade", echo);
  const client = await fixture.connect();
  await fixture.send(client, requests.upgrade);
  await client.hear("HTTP/1.1 101");
  assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 1 });
  await client.end();
});

for (const server of servers) {
  test(`an upgraded socket that fails does not end the process [${server}]`, async (t) => {
    const sockets: Socket[] = [];
    const fixture = await Fixture.start(t, http1Servers[server]);
    (fixture.server as EventEmitter).on("upgrade", (request: IncomingMessage, socket: Socket) => {
      sockets.push(socket);
      echo(request, socket);
    });
    const client = await fixture.connect();
    await fixture.send(client, requests.upgrade);
    await client.hear("HTTP/1.1 101");
    const failure = Object.assign(new Error("torn down"), { code: "ECONNABORTED" });
    for (const socket of [...sockets, ...fixture.accepted]) socket.destroy(failure);
    await client.end();
    await until(() => fixture.tracker.counts().closed === 1);
  });
}

test("an answer still owed when its connection is upgraded does not end the upgrade", async (t) => {
  const fixture = await Fixture.start(t, http1Servers.http);
  (fixture.server as EventEmitter).on("upgrade", echo);
  const client = await fixture.connect();
  await fixture.send(client, `GET / HTTP/1.1\r\nHost: x\r\n\r\n${requests.upgrade}`);
  const { response } = await fixture.next();
  await until(() => fixture.tracker.counts().upgraded === 1);
  fixture.tracker.prepareForSnapshot();
  response.end("owed");
  await until(() => response.closed);
  assert.equal(fixture.tracker.counts().upgraded, 1);
});

test("a socket handed back to the server after CONNECT is one connection", async (t) => {
  const fixture = await Fixture.start(t, http1Servers.http);
  (fixture.server as EventEmitter).on("connect", (_: IncomingMessage, socket: Socket) => {
    socket.write("HTTP/1.1 200 Connected\r\n\r\n");
    fixture.server.emit("connection", socket);
  });
  const client = await fixture.connect();
  await fixture.send(client, requests.connect);
  await client.hear("200 Connected");
  assert.equal(fixture.tracker.counts().upgraded, 1);
  client.socket.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
  const { response } = await fixture.next();
  const none = { new: 0, active: 0, idle: 0, upgraded: 0, closed: 0 };
  assert.deepEqual(fixture.tracker.counts(), { ...none, active: 1 });
  response.end("through");
  await client.hear("through");
  client.socket.destroy();
  await until(() => fixture.tracker.counts().closed === 1);
});

test("a server without upgrade listeners still sees an ordinary request", async (t) => {
  const fixture = await Fixture.start(t, http1Servers.http);
  const client = await fixture.connect();
  await fixture.send(client, requests.upgrade);
  const { response } = await fixture.next();
  response.end("ordinary");
  await client.hear("ordinary");
});

test("a server without connect listeners still refuses CONNECT", async (t) => {
  const fixture = await Fixture.start(t, http1Servers.http);
  const client = await fixture.connect();
  client.socket.write(requests.connect);
  await client.end();
});

test("the tracker listens for upgrades exactly while the application does", async (t) => {
  const { server } = await Fixture.start(t, http1Servers.http);
  const emitter: EventEmitter = server;
  for (const event of events) {
    assert.equal(emitter.listenerCount(event), 0);
    emitter.on(event, echo);
    assert.equal(emitter.listenerCount(event), 2);
    emitter.off(event, echo);
    assert.equal(emitter.listenerCount(event), 0);
    emitter.once(event, echo).on(event, echo);
    emitter.removeAllListeners(event);
    assert.equal(emitter.listenerCount(event), 0);
  }
});
