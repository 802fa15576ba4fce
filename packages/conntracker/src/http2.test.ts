/** HTTP/2 sessions, in clear and over TLS, across prepare, restore and cancel. */
import assert from "node:assert/strict";
import { type EventEmitter, once } from "node:events";
import type { ServerResponse } from "node:http";
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type Http2ServerRequest,
  connect,
} from "node:http2";
import { type TestContext, test } from "node:test";
import { type Exchange, Fixture, http2Servers, testCertificate, until } from "./fixtures.ts";

/** A client session the server has accepted, with what it was told. */
class Client {
  readonly session: ClientHttp2Session;
  goaways = 0;

  constructor(session: ClientHttp2Session) {
    this.session = session;
    session.on("goaway", () => (this.goaways += 1));
    session.on("error", () => undefined);
  }

  static async connect(t: TestContext, fixture: Fixture): Promise<Client> {
    const scheme = fixture.secure ? "https" : "http";
    const url = `${scheme}://127.0.0.1:${fixture.port}`;
    const client = new Client(connect(url, { ca: testCertificate }));
    t.after(() => client.session.destroy());
    // The settings of the server, so that the session exists on both sides.
    await once(client.session, "remoteSettings");
    return client;
  }

  get(): ClientHttp2Stream {
    const stream = this.session.request({ ":path": "/" });
    stream.on("error", () => undefined);
    stream.setEncoding("utf8");
    return stream;
  }

  async end(): Promise<void> {
    await until(() => this.session.destroyed);
  }
}

async function textOf(stream: ClientHttp2Stream): Promise<string> {
  let text = "";
  for await (const chunk of stream) text += String(chunk);
  return text;
}

async function serve(fixture: Fixture, client: Client): Promise<void> {
  const stream = client.get();
  const { response } = await fixture.next();
  response.end("served");
  assert.equal(await textOf(stream), "served");
  await until(() => fixture.tracker.counts().active === 0);
}

async function openStream(
  t: TestContext,
  fixture: Fixture,
): Promise<[Client, ClientHttp2Stream, Exchange]> {
  const client = await Client.connect(t, fixture);
  const stream = client.get();
  const exchange = await fixture.next();
  assert.equal(fixture.tracker.counts().active, 1);
  assert.equal(fixture.tracker.connections().length, 1, "one connection, not two");
  return [client, stream, exchange];
}

for (const [server, kind] of Object.entries(http2Servers)) {
  test(`prepareForSnapshot() says GOAWAY to a new session and closes it [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const client = await Client.connect(t, fixture);
    assert.equal(fixture.tracker.counts().new, 1);
    assert.deepEqual(fixture.tracker.prepareForSnapshot(), { closed: 1, recorded: 0 });
    await client.end();
    assert.ok(client.goaways > 0);
  });

  test(`prepareForSnapshot() says GOAWAY to an idle session and closes it [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const client = await Client.connect(t, fixture);
    await serve(fixture, client);
    assert.equal(fixture.tracker.counts().idle, 1);
    assert.deepEqual(fixture.tracker.prepareForSnapshot(), { closed: 1, recorded: 0 });
    assert.deepEqual(fixture.tracker.connections(), []);
    await client.end();
    assert.ok(client.goaways > 0);
    await until(() => fixture.accepted.every((socket) => socket.destroyed));
  });

  test(`prepareForSnapshot() closes a connection without a preface [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const client = await fixture.connectTcp({ allowHalfOpen: true });
    assert.deepEqual(fixture.tracker.prepareForSnapshot(), { closed: 1, recorded: 0 });
    await until(() => fixture.accepted.every((socket) => socket.destroyed));
    client.socket.destroy();
  });

  test(`prepareForSnapshot() twice destroys a session that is slow to close [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    await Client.connect(t, fixture);
    fixture.tracker.prepareForSnapshot();
    assert.deepEqual(fixture.tracker.prepareForSnapshot(), { closed: 0, recorded: 0 });
    assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 0 });
    assert.ok(fixture.accepted.every((socket) => socket.destroyed));
  });

  test(`prepareForSnapshot() lets open streams finish and then closes [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const [client, first, { response }] = await openStream(t, fixture);
    const second = client.get();
    const other = await fixture.next();
    response.write("begun ");
    assert.deepEqual(fixture.tracker.prepareForSnapshot(), { closed: 0, recorded: 1 });
    await once(client.session, "goaway");
    response.end("finished");
    assert.equal(await textOf(first), "begun finished");
    assert.equal(client.session.destroyed, false);
    other.response.end("second");
    assert.equal(await textOf(second), "second");
    await client.end();
    await until(() => fixture.tracker.counts().closed === 1);
  });

  test(`prepareForSnapshot() lets the stream that asks for it answer [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const [client, stream, { response }] = await openStream(t, fixture);
    response.end(JSON.stringify(fixture.tracker.prepareForSnapshot()));
    assert.equal(await textOf(stream), `{"closed":0,"recorded":1}`);
    await client.end();
  });

  test(`a session begun after prepareForSnapshot() is served once and closed [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    fixture.tracker.prepareForSnapshot();
    const client = await Client.connect(t, fixture);
    await serve(fixture, client);
    await client.end();
    assert.ok(client.goaways > 0);
  });

  test(`restoreAfterSnapshot() destroys sessions with open streams [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const [client, , { response }] = await openStream(t, fixture);
    fixture.tracker.prepareForSnapshot();
    const abandoned = once(response, "close");
    assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 1 });
    await client.end();
    await abandoned;
    const next = await Client.connect(t, fixture);
    await serve(fixture, next);
    await serve(fixture, next);
    assert.equal(next.goaways, 0);
  });

  test(`restoreAfterSnapshot() destroys a session begun after prepare [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    fixture.tracker.prepareForSnapshot();
    const client = await Client.connect(t, fixture);
    assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 1 });
    await client.end();
  });

  test(`restoreAfterSnapshot() spares the session of its carrier [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    fixture.tracker.prepareForSnapshot();
    const [client, stream, { request, response }] = await openStream(t, fixture);
    const bystander = await Client.connect(t, fixture);
    const restored = fixture.tracker.restoreAfterSnapshot(1, { carrier: request.socket });
    assert.deepEqual(restored, { destroyed: 1 });
    await bystander.end();
    response.end("restored");
    assert.equal(await textOf(stream), "restored");
    await until(() => fixture.tracker.counts().idle === 1);
    await serve(fixture, client);
    assert.equal(client.goaways, 0);
  });

  test(`adopt() knows a session by the socket of its stream [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const [client, , { request }] = await openStream(t, fixture);
    const { session } = (request as unknown as Http2ServerRequest).stream;
    assert.ok(session !== undefined);
    const { socket } = session;
    assert.equal(fixture.tracker.adopt(socket, 3), true);
    assert.equal(fixture.tracker.connections()[0]?.generation, 3);
    client.session.destroy();
    await until(() => fixture.tracker.counts().closed === 1);
    assert.equal(fixture.tracker.adopt(socket, 3), false, "the session is gone");
  });

  test(`adopt() keeps a session open between its streams [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    fixture.tracker.prepareForSnapshot();
    const [client, stream, { request, response }] = await openStream(t, fixture);
    fixture.tracker.adopt(request.socket, 1);
    response.end("healthy");
    assert.equal(await textOf(stream), "healthy");
    await until(() => fixture.tracker.counts().idle === 1);
    await serve(fixture, client);
    assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 0 });
    await serve(fixture, client);
    assert.equal(client.goaways, 0);
  });

  test(`CONNECT is one stream of its session [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    (fixture.server as EventEmitter).on("connect", (_, response: ServerResponse) => response.end());
    const client = await Client.connect(t, fixture);
    const stream = client.session.request({ ":method": "CONNECT", ":authority": "there:80" });
    await once(stream, "response");
    assert.equal(fixture.tracker.counts().active, 1);
    stream.end();
    assert.equal(await textOf(stream), "");
    await until(() => fixture.tracker.counts().idle === 1);
  });

  test(`cancel() lets open streams finish and serves new sessions [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const [, stream, { response }] = await openStream(t, fixture);
    fixture.tracker.prepareForSnapshot();
    fixture.tracker.cancel();
    response.end("finished");
    assert.equal(await textOf(stream), "finished");
    const next = await Client.connect(t, fixture);
    await serve(fixture, next);
    await serve(fixture, next);
    assert.equal(next.goaways, 0);
  });

  test(`an application that handles streams is not given requests [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    fixture.server.removeAllListeners("request");
    fixture.server.removeAllListeners("stream");
    fixture.server.on("stream", (stream: { respond(): void; end(text: string): void }) => {
      stream.respond();
      stream.end("stream");
    });
    const client = await Client.connect(t, fixture);
    assert.equal(await textOf(client.get()), "stream");
    await until(() => fixture.tracker.counts().idle === 1);
  });
}
