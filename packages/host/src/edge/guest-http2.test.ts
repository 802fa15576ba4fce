/** Servers in a guest that speak HTTP/2 without TLS, gRPC's foremost, and those that speak something else. */
import assert from "node:assert/strict";
import { once } from "node:events";
import {
  type ClientHttp2Session,
  type Http2Server,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
  connect as connectHttp2,
  constants,
  createServer as createHttp2Server,
} from "node:http2";
import { type AddressInfo, createServer } from "node:net";
import { test } from "node:test";
import { sandboxId, startTestEdge, textOf, userPort, type TestEdge } from "./fixtures.ts";

const host = `${userPort}-${sandboxId}.localhost`;
const grpc = { "content-type": "application/grpc+proto", te: "trailers" };

interface Answer {
  readonly headers: IncomingHttpHeaders;
  readonly trailers: IncomingHttpHeaders;
  readonly interim: readonly string[];
  readonly text: string;
  /** Whether the head was the end. */
  readonly isWhole: boolean;
}

/** A server that knows HTTP/2 only, and answers by the path. */
async function serveHttp2(edge: TestEdge): Promise<Http2Server & Disposable> {
  const sessions = new Set<{ destroy(): void }>();
  const server = createHttp2Server();
  server.on("session", (session) => sessions.add(session));
  server.on("stream", (stream, headers) => {
    stream.on("error", () => undefined);
    const path = headers[":path"] ?? "";
    if (path === "/trailers-only") {
      stream.respond({ ":status": 200, "grpc-status": "5" }, { endStream: true });
      return;
    }
    if (path === "/reset") {
      stream.respond({ ":status": 200 });
      stream.write("half");
      setImmediate(() => stream.destroy(new Error("reset")));
      return;
    }
    stream.additionalHeaders({ ":status": 103, link: "</x>" });
    stream.respond(
      { ":status": 200, "x-host": headers[":authority"], "x-te": headers["te"], "x-path": path },
      { waitForTrailers: true },
    );
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
    stream.pipe(stream);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  edge.lead(userPort, (server.address() as AddressInfo).port);
  return Object.assign(server, {
    [Symbol.dispose]: () => {
      server.close();
      for (const session of sessions) session.destroy();
    },
  });
}

function open(edge: TestEdge): ClientHttp2Session & Disposable {
  const session = connectHttp2(`http://127.0.0.1:${edge.port}`);
  session.on("error", () => undefined);
  return Object.assign(session, { [Symbol.dispose]: () => session.destroy() });
}

async function ask(
  session: ClientHttp2Session,
  headers: OutgoingHttpHeaders,
  body?: string,
): Promise<Answer> {
  const stream = session.request(
    { ":authority": host, ":path": "/", ...headers },
    { endStream: body === undefined },
  );
  const interim: string[] = [];
  let trailers: IncomingHttpHeaders = {};
  stream.on("headers", (received: IncomingHttpHeaders) => {
    interim.push(`${String(received[":status"])} ${String(received["link"])}`);
  });
  stream.on("trailers", (received: IncomingHttpHeaders) => {
    trailers = received;
  });
  if (body !== undefined) stream.end(body);
  const [head, flags] = (await once(stream, "response")) as [IncomingHttpHeaders, number];
  const text = await textOf(stream);
  const isWhole = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0;
  return { headers: head, trailers, interim, text, isWhole };
}

test("gRPC is carried by HTTP/2 on both sides, with interim answers and trailers", async () => {
  await using edge = await startTestEdge();
  using _ = await serveHttp2(edge);
  using session = open(edge);
  const path = "/pkg.Service/Method";
  const { headers, trailers, interim, text } = await ask(
    session,
    { ...grpc, ":method": "POST", ":path": path },
    "\0\0\0\0\x02hi",
  );
  assert.equal(headers["x-host"], host);
  assert.equal(headers["x-te"], "trailers");
  assert.equal(headers["x-path"], path);
  assert.deepEqual(interim, ["103 </x>"]);
  assert.equal(text, "\0\0\0\0\x02hi");
  assert.equal(trailers["grpc-status"], "0");
  const only = await ask(session, { ...grpc, ":method": "POST", ":path": "/trailers-only" }, "");
  assert.equal(`${String(only.headers["grpc-status"])} ${only.isWhole}`, "5 true");
  assert.equal(edge.dials.length, 1, "many calls share a connection");
});

test("each message of a gRPC stream comes as it was sent, both ways", async () => {
  await using edge = await startTestEdge();
  using _ = await serveHttp2(edge);
  using session = open(edge);
  const stream = session.request({ ":authority": host, ":method": "POST", ":path": "/", ...grpc });
  for (const word of ["one", "two", "three"]) {
    stream.write(word);
    assert.equal(String((await once(stream, "data"))[0]), word);
  }
  const traffic = edge.sandbox.run?.traffic;
  edge.sandbox.end("stopped");
  await assert.rejects(textOf(stream));
  assert.equal(stream.rstCode, constants.NGHTTP2_INTERNAL_ERROR);
  assert.equal(traffic?.count, 0);
});

test("a server that knows HTTP/2 only is found out, with a body and without", async () => {
  for (const body of [undefined, "hello"]) {
    await using edge = await startTestEdge();
    using _ = await serveHttp2(edge);
    using session = open(edge);
    for (let count = 0; count < 2; count += 1) {
      const method = body === undefined ? "GET" : "POST";
      const { headers, text } = await ask(session, { ":method": method }, body);
      assert.equal(`${String(headers[":status"])} ${text}`, `200 ${body ?? ""}`);
    }
  }
});

test("many requests at once find out together, on one connection", async () => {
  await using edge = await startTestEdge();
  using _ = await serveHttp2(edge);
  using session = open(edge);
  const asked = Array.from({ length: 20 }, () => ask(session, { ":method": "POST" }, "hello"));
  for (const { text } of await Promise.all(asked)) assert.equal(text, "hello");
  assert.equal(edge.dials.length, 1);
});

test("a session that is silent is closed, but for its streams", async () => {
  await using edge = await startTestEdge();
  edge.listener.keepAliveTimeout = 50;
  using _ = await serveHttp2(edge);
  using session = open(edge);
  const stream = session.request({ ":authority": host, ":method": "POST", ":path": "/", ...grpc });
  stream.write("one");
  await once(stream, "data");
  await once(session, "goaway");
  stream.write("two");
  assert.equal(String((await once(stream, "data"))[0]), "two");
  const closed = once(session, "close");
  stream.end();
  stream.resume();
  await closed;
});

test("a stream that the guest resets is broken off", async () => {
  await using edge = await startTestEdge();
  using _ = await serveHttp2(edge);
  using session = open(edge);
  await assert.rejects(ask(session, { ...grpc, ":method": "POST", ":path": "/reset" }, "x"));
});

test("a client that leaves in the middle of its body is no end of it for the guest", async () => {
  await using edge = await startTestEdge();
  using server = await serveHttp2(edge);
  using session = open(edge);
  const opened = once(server, "stream") as Promise<[ServerHttp2Stream]>;
  const headers = { ":authority": host, ":method": "POST", ":path": "/", ...grpc };
  const stream = session.request(headers);
  stream.on("error", () => undefined);
  stream.write("half");
  await once(stream, "data");
  stream.destroy(new Error("gone"));
  const [guests] = await opened;
  if (!guests.closed) await once(guests, "close").catch(() => undefined);
  assert.equal(guests.rstCode, constants.NGHTTP2_INTERNAL_ERROR);
});

test("a server of HTTP/1 answers clients of HTTP/2, before and after another on its port", async () => {
  await using edge = await startTestEdge();
  using session = open(edge);
  const post = async (): Promise<string> => {
    const { headers, text } = await ask(session, { ":method": "POST" }, "body");
    return `${String(headers[":status"])} ${text}`;
  };
  await edge.serve(userPort, (request, response) => void request.pipe(response));
  assert.equal(await post(), "200 body");
  edge.sandbox.end();
  edge.sandbox.start();
  {
    using _ = await serveHttp2(edge);
    assert.equal(await post(), "200 body");
  }
  await edge.serve(userPort, (_request, response) => response.end("again"));
  assert.match(await post(), /^(?:502|200 again)/);
  assert.equal(await post(), "200 again");
});

test("a refusal says what the server speaks", async () => {
  await using edge = await startTestEdge();
  using session = open(edge);
  {
    using _ = await serveHttp2(edge);
    const { status, text } = await edge.get("/", { headers: { Host: host } });
    assert.equal(status, 502);
    assert.match(text, /speaks HTTP\/2, and was asked in HTTP\/1/);
  }
  for (const [greeting, name] of [
    ["SSH-2.0-OpenSSH_9.9\r\n", "SSH"],
    ["\x15\x03\x01\0\x02\x02\x28", "TLS"],
    ["-ERR unknown command 'GET'\r\n", "the protocol of Redis"],
    ["220 mail ESMTP\r\n", "a protocol of mail or file transfer"],
  ] as const) {
    const server = createServer((socket) => {
      socket.on("error", () => socket.destroy());
      socket.end(greeting, "latin1");
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    edge.lead(userPort, (server.address() as AddressInfo).port);
    const { text } = await edge.get("/", { headers: { Host: host } });
    assert.match(text, new RegExp(`speaks ${name}, and was asked in HTTP/1`));
    const { headers } = await ask(session, { ...grpc, ":method": "POST" }, "x");
    assert.equal(headers[":status"], 502);
    server.close();
  }
});
