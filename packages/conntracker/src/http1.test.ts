/**
 * Every state an HTTP/1 connection can be in, on every server that speaks HTTP/1, across prepare,
 * restore and cancel.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type TestContext, test } from "node:test";
import type { ConnectionState } from "./index.ts";
import { type Exchange, Fixture, type RawClient, http1Servers, until } from "./fixtures.ts";

const get = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/** A connection brought into one state, with the exchanges the server has open on it. */
interface Arranged {
  readonly client: RawClient;
  readonly open: readonly Exchange[];
}

interface Case {
  readonly name: string;
  readonly state: ConnectionState;
  arrange(fixture: Fixture): Promise<Arranged>;
  /** For connections in use: makes the server end all exchanges; resolves with what was heard. */
  finish?(arranged: Arranged): Promise<string>;
  /** Whether the answers still can say `Connection: close` after the arrangement. */
  readonly headersUnsent?: boolean;
}

/** Makes a request and has it answered, so that the connection is kept alive. */
async function serveOnce(fixture: Fixture, client: RawClient): Promise<string> {
  await fixture.send(client, get);
  const { response } = await fixture.next();
  response.end("served");
  const heard = await client.hear("served");
  await until(() => response.closed);
  return heard;
}

async function finishOne({ client, open }: Arranged): Promise<string> {
  for (const { response } of open) response.end("finished");
  return client.hear("finished");
}

const cases: readonly Case[] = [
  {
    name: "silent",
    state: "new",
    arrange: async (fixture) => ({ client: await fixture.connect(), open: [] }),
  },
  {
    name: "half headers",
    state: "new",
    arrange: async (fixture) => {
      const client = await fixture.connect();
      await fixture.send(client, "GET / HTTP/1.1\r\nHo");
      return { client, open: [] };
    },
  },
  {
    name: "kept alive and idle",
    state: "idle",
    arrange: async (fixture) => {
      const client = await fixture.connect();
      await serveOnce(fixture, client);
      return { client, open: [] };
    },
  },
  {
    name: "half a second request",
    state: "idle",
    arrange: async (fixture) => {
      const client = await fixture.connect();
      await serveOnce(fixture, client);
      await fixture.send(client, "GET /second HTTP/1.1\r\nHo");
      return { client, open: [] };
    },
  },
  {
    name: "in flight, headers unsent",
    state: "active",
    headersUnsent: true,
    arrange: async (fixture) => {
      const client = await fixture.connect();
      await fixture.send(client, get);
      return { client, open: [await fixture.next()] };
    },
    finish: finishOne,
  },
  {
    name: "half a body",
    state: "active",
    headersUnsent: true,
    arrange: async (fixture) => {
      const client = await fixture.connect();
      await fixture.send(
        client,
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\nhalf",
      );
      return { client, open: [await fixture.next()] };
    },
    finish: async (arranged) => {
      arranged.client.socket.write("half");
      for (const { request } of arranged.open) await once(request.resume(), "end");
      return finishOne(arranged);
    },
  },
  {
    name: "streaming, headers sent",
    state: "active",
    headersUnsent: false,
    arrange: async (fixture) => {
      const client = await fixture.connect();
      await fixture.send(client, get);
      const exchange = await fixture.next();
      exchange.response.write("begun");
      assert.match(await client.hear("begun"), /Connection: keep-alive/);
      return { client, open: [exchange] };
    },
    finish: finishOne,
  },
  {
    name: "pipelined",
    state: "active",
    headersUnsent: true,
    arrange: async (fixture) => {
      const client = await fixture.connect();
      await fixture.send(client, get + get);
      return { client, open: [await fixture.next(), await fixture.next()] };
    },
    finish: async ({ client, open }) => {
      for (const [index, { response }] of open.entries()) response.end(`answer ${index}`);
      return client.hear("answer 1");
    },
  },
];

/** A new connection is served at once, and kept alive. */
async function assertServes(fixture: Fixture): Promise<void> {
  const client = await fixture.connect();
  assert.match(await serveOnce(fixture, client), /Connection: keep-alive/);
  assert.match(await serveOnce(fixture, client), /Connection: keep-alive/);
  client.socket.destroy();
}

function isInUse({ state }: Case): boolean {
  return state === "active";
}

function lastOf<T>(items: readonly T[]): T {
  const last = items.at(-1);
  assert.ok(last !== undefined);
  return last;
}

for (const [server, kind] of Object.entries(http1Servers)) {
  for (const one of cases) {
    const start = async (t: TestContext): Promise<[Fixture, Arranged]> => {
      const fixture = await Fixture.start(t, kind);
      const arranged = await one.arrange(fixture);
      assert.deepEqual(
        fixture.tracker.connections().map(({ state, encrypted }) => ({ state, encrypted })),
        [{ state: one.state, encrypted: kind.secure }],
        "one connection, in the state arranged",
      );
      return [fixture, arranged];
    };

    if (isInUse(one)) {
      test(`prepareForSnapshot() records "${one.name}" and ends it after its answer [${server}]`, async (t) => {
        const [fixture, arranged] = await start(t);
        assert.deepEqual(fixture.tracker.prepareForSnapshot(), { closed: 0, recorded: 1 });
        const heard = (await one.finish?.(arranged)) ?? "";
        assert.equal(/Connection: close/.test(heard), one.headersUnsent);
        await arranged.client.end();
        await until(() => fixture.tracker.counts().closed === 1);
        assert.deepEqual(fixture.tracker.connections(), []);
      });

      test(`restoreAfterSnapshot() destroys "${one.name}" [${server}]`, async (t) => {
        const [fixture, { client, open }] = await start(t);
        fixture.tracker.prepareForSnapshot();
        assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 1 });
        assert.ok(
          fixture.accepted.every((socket) => socket.destroyed),
          "destroyed when restore returns",
        );
        await client.end();
        await until(() => open.every(({ request }) => request.socket.destroyed));
        await assertServes(fixture);
      });

      test(`cancel() lets "${one.name}" finish and stay usable [${server}]`, async (t) => {
        const [fixture, arranged] = await start(t);
        fixture.tracker.prepareForSnapshot();
        fixture.tracker.cancel();
        const heard = (await one.finish?.(arranged)) ?? "";
        assert.doesNotMatch(heard, /Connection: close/);
        await until(() => lastOf(arranged.open).response.closed);
        assert.match(await serveOnce(fixture, arranged.client), /Connection: keep-alive/);
        assert.equal(fixture.tracker.counts().idle, 1);
      });
    } else {
      test(`prepareForSnapshot() closes "${one.name}" at once [${server}]`, async (t) => {
        const [fixture, { client }] = await start(t);
        assert.deepEqual(fixture.tracker.prepareForSnapshot(), { closed: 1, recorded: 0 });
        assert.ok(
          fixture.accepted.every((socket) => socket.destroyed),
          "closed when prepare returns",
        );
        await client.end();
        assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 0 });
        await assertServes(fixture);
      });

      test(`cancel() after "${one.name}" was closed serves as before [${server}]`, async (t) => {
        const [fixture] = await start(t);
        fixture.tracker.prepareForSnapshot();
        fixture.tracker.cancel();
        await assertServes(fixture);
      });
    }
  }

  test(`a request after prepare is answered, and is the last of its connection [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    fixture.tracker.prepareForSnapshot();
    const client = await fixture.connect();
    assert.match(await serveOnce(fixture, client), /Connection: close/);
    await client.end();
  });

  test(`the request that asks for prepare is answered and then closed [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const client = await fixture.connect();
    await fixture.send(client, get);
    const { response } = await fixture.next();
    response.end(JSON.stringify(fixture.tracker.prepareForSnapshot()));
    assert.match(await client.hear(`{"closed":0,"recorded":1}`), /Connection: close/);
    await client.end();
  });

  test(`an answer that insists on keep-alive ends its connection all the same [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const client = await fixture.connect();
    await fixture.send(client, get);
    const { response } = await fixture.next();
    fixture.tracker.prepareForSnapshot();
    response.writeHead(200, { Connection: "keep-alive" }).end("insists");
    await client.hear("insists");
    await client.end();
  });

  test(`an answer Node gives by itself ends its connection after prepare [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    fixture.tracker.prepareForSnapshot();
    const client = await fixture.connect();
    await fixture.send(client, "GET / HTTP/1.1\r\nHost: localhost\r\nExpect: wonders\r\n\r\n");
    assert.match(await client.hear("\r\n\r\n"), /417 [^]*Connection: close/);
    await client.end();
  });

  test(`a request pipelined after prepare takes over the goodbye [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const client = await fixture.connect();
    await fixture.send(client, get);
    const first = await fixture.next();
    fixture.tracker.prepareForSnapshot();
    await fixture.send(client, get);
    const second = await fixture.next();
    first.response.end("first");
    second.response.end("second");
    const heard = await client.hear("second");
    assert.match(heard, /Connection: keep-alive[^]*first[^]*Connection: close[^]*second/);
    await client.end();
  });
}

for (const [server, kind] of Object.entries(http1Servers)) {
  if (!kind.secure) continue;

  test(`an unfinished handshake is one connection, closed by prepare [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const client = await fixture.connectTcp();
    await fixture.send(client, "\x16\x03\x01");
    assert.equal(fixture.tracker.counts().new, 1);
    assert.equal(fixture.tracker.connections()[0]?.encrypted, true);
    assert.deepEqual(fixture.tracker.prepareForSnapshot(), { closed: 1, recorded: 0 });
    await client.end();
    await until(() => fixture.tracker.counts().closed === 1);
  });

  test(`a handshake begun after prepare is destroyed by restore [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    fixture.tracker.prepareForSnapshot();
    const client = await fixture.connectTcp();
    await fixture.send(client, "\x16\x03\x01");
    assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 1 });
    await client.end();
    await assertServes(fixture);
  });
}
