/** Generations, repeated and missing calls, and what the tracker says about itself. */
import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { createServer } from "node:http";
import { type TestContext, test } from "node:test";
import { type Exchange, Fixture, type RawClient, http1Servers, until } from "./fixtures.ts";
import { ServerConnTracker, StaleGenerationError } from "./index.ts";

const get = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

async function start(t: TestContext): Promise<Fixture> {
  return Fixture.start(t, http1Servers.http);
}

/** A connection with a request the server has not answered. */
async function inFlight(fixture: Fixture): Promise<Exchange & { readonly client: RawClient }> {
  const client = await fixture.connect();
  await fixture.send(client, get);
  return { client, ...(await fixture.next()) };
}

async function answer({ client, response }: Exchange & { client: RawClient }): Promise<string> {
  response.end("answered");
  const heard = await client.hear("answered");
  await until(() => response.closed);
  return heard;
}

test("prepareForSnapshot() twice closes what has fallen idle and records the rest", async (t) => {
  const fixture = await start(t);
  await fixture.connect();
  await inFlight(fixture);
  assert.deepEqual(fixture.tracker.prepareForSnapshot(), { closed: 1, recorded: 1 });
  assert.equal(fixture.tracker.prepared, true);
  await fixture.connect();
  assert.deepEqual(fixture.tracker.prepareForSnapshot(), { closed: 1, recorded: 1 });
  assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 1 });
});

test("restoreAfterSnapshot() destroys what was accepted between prepare and the freeze", async (t) => {
  const fixture = await start(t);
  fixture.tracker.prepareForSnapshot();
  const silent = await fixture.connect();
  const { client } = await inFlight(fixture);
  assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 2 });
  await silent.end();
  await client.end();
});

test("restoreAfterSnapshot() spares its carrier, which is kept alive", async (t) => {
  const fixture = await start(t);
  const old = await inFlight(fixture);
  fixture.tracker.prepareForSnapshot();
  const carrier = await inFlight(fixture);
  const restored = fixture.tracker.restoreAfterSnapshot(7, { carrier: carrier.request.socket });
  assert.deepEqual(restored, { destroyed: 1 });
  await old.client.end();
  assert.match(await answer(carrier), /Connection: keep-alive/);
  assert.deepEqual(
    fixture.tracker.connections().map(({ state, generation }) => ({ state, generation })),
    [{ state: "idle", generation: 7 }],
  );
});

test("restoreAfterSnapshot() spares an adopted connection", async (t) => {
  const fixture = await start(t);
  fixture.tracker.prepareForSnapshot();
  const health = await inFlight(fixture);
  assert.equal(fixture.tracker.adopt(health.request.socket, 7), true);
  const carrier = await inFlight(fixture);
  const other = await inFlight(fixture);
  const restored = fixture.tracker.restoreAfterSnapshot(7, { carrier: carrier.request.socket });
  assert.deepEqual(restored, { destroyed: 1 });
  await other.client.end();
  assert.match(await answer(health), /Connection: keep-alive/);
  assert.match(await answer(carrier), /Connection: keep-alive/);
});

test("adopt() keeps a connection alive, so that it can carry the restore too", async (t) => {
  const fixture = await start(t);
  fixture.tracker.prepareForSnapshot();
  const health = await inFlight(fixture);
  fixture.tracker.adopt(health.request.socket, 7);
  assert.match(await answer(health), /Connection: keep-alive/);
  await fixture.send(health.client, get);
  const carrier = { client: health.client, ...(await fixture.next()) };
  const restored = fixture.tracker.restoreAfterSnapshot(7, { carrier: carrier.request.socket });
  assert.deepEqual(restored, { destroyed: 0 });
  assert.match(await answer(carrier), /Connection: keep-alive/);
});

test("adopt() for the current generation proves nothing", async (t) => {
  const fixture = await start(t);
  fixture.tracker.restoreAfterSnapshot(7);
  fixture.tracker.prepareForSnapshot();
  const open = await inFlight(fixture);
  assert.equal(fixture.tracker.adopt(open.request.socket, 7), true);
  assert.match(await answer(open), /Connection: close/);
});

test("prepareForSnapshot() takes adoptions back", async (t) => {
  const fixture = await start(t);
  const open = await inFlight(fixture);
  fixture.tracker.adopt(open.request.socket, 1_000);
  fixture.tracker.prepareForSnapshot();
  assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 1 });
  await open.client.end();
});

test("restoreAfterSnapshot() destroys a connection adopted for an earlier restore", async (t) => {
  const fixture = await start(t);
  const { client, request } = await inFlight(fixture);
  fixture.tracker.adopt(request.socket, 7);
  fixture.tracker.prepareForSnapshot();
  assert.deepEqual(fixture.tracker.restoreAfterSnapshot(8), { destroyed: 1 });
  await client.end();
});

test("restoreAfterSnapshot() twice with one generation leaves newer connections alone", async (t) => {
  const fixture = await start(t);
  await inFlight(fixture);
  fixture.tracker.prepareForSnapshot();
  assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 1 });
  const newer = await inFlight(fixture);
  assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 0 });
  assert.match(await answer(newer), /Connection: keep-alive/);
});

test("restoreAfterSnapshot() with the current generation does not end a preparation", async (t) => {
  const fixture = await start(t);
  fixture.tracker.restoreAfterSnapshot(1);
  const open = await inFlight(fixture);
  fixture.tracker.prepareForSnapshot();
  assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 0 });
  assert.equal(fixture.tracker.prepared, true);
  assert.match(await answer(open), /Connection: close/);
});

test("restoreAfterSnapshot() without prepare destroys nothing and advances the generation", async (t) => {
  const fixture = await start(t);
  const open = await inFlight(fixture);
  assert.deepEqual(fixture.tracker.restoreAfterSnapshot(5), { destroyed: 0 });
  assert.equal(fixture.tracker.generation, 5);
  assert.match(await answer(open), /Connection: keep-alive/);
});

test("restoreAfterSnapshot() refuses a stale generation and changes nothing", async (t) => {
  const fixture = await start(t);
  fixture.tracker.restoreAfterSnapshot(5);
  const open = await inFlight(fixture);
  fixture.tracker.prepareForSnapshot();
  const stale = {
    name: "StaleGenerationError",
    given: 4,
    current: 5,
    code: "ERR_STALE_GENERATION",
  };
  assert.throws(() => fixture.tracker.restoreAfterSnapshot(4), stale);
  assert.throws(() => fixture.tracker.adopt(open.request.socket, 4), StaleGenerationError);
  assert.throws(() => fixture.tracker.adopt(open.request.socket, 4), RangeError);
  assert.equal(fixture.tracker.generation, 5);
  assert.equal(fixture.tracker.prepared, true);
  assert.match(await answer(open), /Connection: close/);
});

test("restoreAfterSnapshot() refuses what is not a generation", async (t) => {
  const fixture = await start(t);
  for (const wrong of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]) {
    assert.throws(() => fixture.tracker.restoreAfterSnapshot(wrong), RangeError);
  }
  assert.equal(fixture.tracker.generation, 0);
});

test("restoreAfterSnapshot() serves snapshot after snapshot", async (t) => {
  const fixture = await start(t);
  for (const generation of [1, 2, 9]) {
    const { client } = await inFlight(fixture);
    fixture.tracker.prepareForSnapshot();
    assert.deepEqual(fixture.tracker.restoreAfterSnapshot(generation), { destroyed: 1 });
    await client.end();
    const newer = await inFlight(fixture);
    assert.match(await answer(newer), /Connection: keep-alive/);
    newer.client.socket.destroy();
    await until(() => fixture.tracker.connections().length === 0);
  }
});

test("a plain request between prepare and restore changes no generation", async (t) => {
  const fixture = await start(t);
  const old = await inFlight(fixture);
  fixture.tracker.prepareForSnapshot();
  const health = await inFlight(fixture);
  assert.match(await answer(health), /Connection: close/);
  await health.client.end();
  assert.equal(fixture.tracker.generation, 0);
  assert.equal(fixture.tracker.prepared, true);
  assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 1 });
  await old.client.end();
});

test("cancel() without prepare changes nothing", async (t) => {
  const fixture = await start(t);
  const open = await inFlight(fixture);
  fixture.tracker.cancel();
  assert.match(await answer(open), /Connection: keep-alive/);
  assert.equal(fixture.tracker.generation, 0);
});

test("cancel() does not keep alive what the peer asked to close", async (t) => {
  const fixture = await start(t);
  const client = await fixture.connect();
  await fixture.send(client, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const { response } = await fixture.next();
  fixture.tracker.prepareForSnapshot();
  fixture.tracker.cancel();
  response.end("answered");
  assert.match(await client.hear("answered"), /Connection: close/);
  await client.end();
});

test("restoreAfterSnapshot() after cancel() destroys nothing", async (t) => {
  const fixture = await start(t);
  const open = await inFlight(fixture);
  fixture.tracker.prepareForSnapshot();
  fixture.tracker.cancel();
  assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 0 });
  assert.match(await answer(open), /Connection: keep-alive/);
});

test("adopt() knows only the open connections of its own server", async (t) => {
  const [fixture, other] = [await start(t), await start(t)];
  const foreign = await inFlight(other);
  assert.equal(fixture.tracker.adopt(foreign.request.socket, 1), false);
  const { client, request } = await inFlight(fixture);
  client.socket.destroy();
  await until(() => fixture.tracker.counts().closed === 1);
  assert.equal(fixture.tracker.adopt(request.socket, 1), false);
});

test("two trackers keep their servers apart", async (t) => {
  const [fixture, other] = [await start(t), await start(t)];
  const open = await inFlight(other);
  await fixture.connect();
  assert.deepEqual(fixture.tracker.prepareForSnapshot(), { closed: 1, recorded: 0 });
  assert.match(await answer(open), /Connection: keep-alive/);
  assert.equal(fixture.tracker.restoreAfterSnapshot(1).destroyed, 0);
  assert.equal(other.tracker.counts().idle, 1);
});

test("connections() describes each open connection", async (t) => {
  const fixture = await start(t);
  const client = await fixture.connect();
  const [info, ...others] = fixture.tracker.connections();
  assert.ok(info !== undefined && others.length === 0);
  const { ageMs, ...rest } = info;
  assert.ok(ageMs >= 0);
  const remote = `127.0.0.1:${client.localPort}`;
  assert.deepEqual(rest, { state: "new", generation: 0, encrypted: false, remote });
});

test("counts() follows a connection from new to closed", async (t) => {
  const fixture = await start(t);
  const none = { new: 0, active: 0, idle: 0, upgraded: 0, closed: 0 };
  assert.deepEqual(fixture.tracker.counts(), none);
  const open = await inFlight(fixture);
  assert.deepEqual(fixture.tracker.counts(), { ...none, active: 1 });
  await answer(open);
  assert.deepEqual(fixture.tracker.counts(), { ...none, idle: 1 });
  open.client.socket.destroy();
  await until(() => fixture.tracker.connections().length === 0);
  assert.deepEqual(fixture.tracker.counts(), { ...none, closed: 1 });
});

test("a client that goes away in the middle of an answer is forgotten", async (t) => {
  const fixture = await start(t);
  const { client } = await inFlight(fixture);
  client.socket.resetAndDestroy();
  await until(() => fixture.tracker.counts().closed === 1);
  assert.deepEqual(fixture.tracker.connections(), []);
});

test("detach() removes every listener, takes back the preparation, and may be repeated", async (t) => {
  const server = createServer();
  const listenersOf = (emitter: EventEmitter): readonly number[] =>
    emitter.eventNames().map((event) => emitter.listenerCount(event));
  server.on("upgrade", () => undefined);
  const before = [server.eventNames(), listenersOf(server)];
  const tracker = new ServerConnTracker(server);
  assert.notDeepEqual([server.eventNames(), listenersOf(server)], before);
  tracker.detach();
  tracker[Symbol.dispose]();
  assert.deepEqual([server.eventNames(), listenersOf(server)], before);

  const fixture = await start(t);
  const open = await inFlight(fixture);
  const { socket } = open.request;
  const [errors, closes] = [socket.listenerCount("error"), socket.listenerCount("close")];
  fixture.tracker.prepareForSnapshot();
  fixture.tracker.detach();
  assert.equal(socket.listenerCount("error"), errors - 1);
  assert.equal(socket.listenerCount("close"), closes - 1);
  assert.deepEqual(fixture.tracker.connections(), []);
  assert.match(await answer(open), /Connection: keep-alive/);
});

test("a tracker works when attached before listen, and across a second listen", async (t) => {
  const fixture = await start(t);
  fixture.server.close();
  await once(fixture.server, "close");
  fixture.server.listen(0, "127.0.0.1");
  await once(fixture.server, "listening");
  await fixture.connect();
  assert.equal(fixture.tracker.counts().new, 1);
});
