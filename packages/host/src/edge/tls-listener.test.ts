/** The same over TLS, with a certificate of the test's own. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import {
  type ClientHttp2Stream,
  type IncomingHttpHeaders,
  connect as connectHttp2,
  constants,
} from "node:http2";
import { request as httpsRequest } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as connectTls } from "node:tls";
import { test } from "node:test";
import { TorporError, silentLogger } from "@torpor/std";
import { makeCertificate } from "./certificate-fixture.ts";
import {
  sandboxId,
  startTestEdge,
  textOf,
  userPort,
  type TestEdge,
  type TestEdgeOptions,
} from "./fixtures.ts";
import { listenTls } from "./tls-listener.ts";

const domain = "box.localhost";
const host = `${userPort}-${sandboxId}.${domain}`;

interface Secure extends AsyncDisposable {
  readonly edge: TestEdge;
  readonly port: number;
  readonly ca: Buffer;
}

async function startSecure(options: TestEdgeOptions = {}): Promise<Secure> {
  await using undo = new AsyncDisposableStack();
  const folder = undo.adopt(await mkdtemp(join(tmpdir(), "torpor-tls-test-")), (path) =>
    rm(path, { recursive: true, force: true }),
  );
  const { ca, ...files } = await makeCertificate(folder, domain);
  const edge = undo.use(await startTestEdge({ domain, ...options }));
  const settings = { ...files, address: "127.0.0.1", port: 0 };
  const { port } = undo.use(
    await listenTls(edge.listener, edge.connections, settings, silentLogger),
  );
  const owned = undo.move();
  return { edge, port, ca, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function headOf(stream: ClientHttp2Stream): Promise<IncomingHttpHeaders> {
  const [headers] = (await once(stream, "response")) as [IncomingHttpHeaders];
  return headers;
}

test("HTTP/1.1 over TLS reaches the guest, who is told so", async () => {
  await using secure = await startSecure();
  const { edge, port, ca } = secure;
  await edge.serve(userPort, ({ headers }, response) =>
    response.end(String(headers["x-forwarded-proto"])),
  );
  const outgoing = httpsRequest({
    port,
    host: "127.0.0.1",
    servername: host,
    ca,
    headers: { host },
  });
  outgoing.end();
  const [answer] = (await once(outgoing, "response")) as [IncomingMessage];
  assert.equal(await textOf(answer), "https");
});

test("HTTP/2 is spoken with whoever speaks it, streams and trailers included", async () => {
  await using secure = await startSecure();
  const { edge, port, ca } = secure;
  await edge.serve(userPort, (request, response) => {
    response.writeHead(200, [
      ...["Content-Type", "application/connect+json", "Set-Cookie", "a=1", "Set-Cookie", "b=2"],
      ...["X-Host", request.headers.host ?? "", "X-Cookie", request.headers.cookie ?? "none"],
    ]);
    response.flushHeaders();
    request.on("data", (chunk) => response.write(chunk));
    request.on("end", () => {
      response.addTrailers({ "X-Sum": "42" });
      response.end();
    });
  });
  const session = connectHttp2(`https://${host}:${port}`, {
    ca,
    host: "127.0.0.1",
    servername: host,
  });
  const stream = session.request({ ":method": "POST", ":path": "/", cookie: "c=1; d=2" });
  const headers = await headOf(stream);
  assert.equal(headers[":status"], 200);
  assert.deepEqual(headers["set-cookie"], ["a=1", "b=2"]);
  assert.equal(headers["x-host"], `${host}:${port}`);
  assert.equal(headers["x-cookie"], "c=1; d=2");
  stream.write("one");
  assert.equal(String((await once(stream, "data"))[0]), "one");
  const trailers = once(stream, "trailers") as Promise<[IncomingHttpHeaders]>;
  stream.end();
  stream.resume();
  assert.equal((await trailers)[0]["x-sum"], "42");

  const api = session.request({ ":path": "/x", ":authority": `api.${domain}` });
  assert.equal(await textOf(api), "api /x");
  const missing = session.request({ ":authority": `80-inone.${domain}` });
  assert.equal((await headOf(missing))[":status"], 502);
  missing.resume();

  const cut = session.request({ ":method": "POST", ":path": "/" });
  await once(cut, "response");
  const rest = textOf(cut);
  edge.sandbox.end();
  assert.match(await rest, /unavailable.*was paused/);

  edge.sandbox.start();
  const stopped = session.request({ ":method": "POST", ":path": "/" });
  await once(stopped, "response");
  const broken = textOf(stopped);
  edge.sandbox.end("stopped");
  await assert.rejects(broken);
  assert.equal(
    stopped.rstCode,
    constants.NGHTTP2_INTERNAL_ERROR,
    "clients take others for the end",
  );
  session.close();
});

test("a body of HTTP/2 without a length is no less a body for the API", async () => {
  await using secure = await startSecure({
    serveApi: ({ headers }, response) => response.end(`${headers["transfer-encoding"]}`),
  });
  const session = connectHttp2(`https://${host}:${secure.port}`, {
    ca: secure.ca,
    host: "127.0.0.1",
    servername: host,
  });
  const ask = async (body: string | undefined, headers = {}): Promise<string> => {
    const authority = `api.${domain}`;
    const stream = session.request(
      { ":method": "POST", ":authority": authority, ...headers },
      { endStream: body === undefined },
    );
    stream.end(body);
    return await textOf(stream);
  };
  assert.equal(await ask("x"), "chunked");
  assert.equal(await ask("x", { "content-length": "1" }), "undefined");
  assert.equal(await ask(undefined), "undefined");
  session.close();
});

test("what HTTP/2 does not take from a guest ends nothing but that answer", async () => {
  await using secure = await startSecure();
  await secure.edge.serve(userPort, (request, response) => {
    const socket = request.socket;
    const [head = "", trailers = ""] = decodeURIComponent(request.url?.slice(1) ?? "").split("|");
    response.destroy = () => response;
    socket.end(
      `HTTP/1.1 ${head}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n${trailers}\r\n`,
      "latin1",
    );
  });
  const session = connectHttp2(`https://${host}:${secure.port}`, {
    ca: secure.ca,
    host: "127.0.0.1",
    servername: host,
  });
  const ask = async (answer: string): Promise<string> => {
    const stream = session.request({ ":path": `/${encodeURIComponent(answer)}` });
    let trailers = {};
    stream.on("trailers", (received: IncomingHttpHeaders) => {
      trailers = received;
    });
    const { ":status": status, etag } = await headOf(stream);
    const text = await textOf(stream);
    return `${String(status)} ${String(etag)} ${text} ${JSON.stringify(trailers)}`;
  };
  assert.equal(await ask('200 OK\r\nETag: "a"\r\nETag: "b"'), '200 "a" hi {}');
  for (const name of ["Location", "Date", "Content-Type", "Age", "Retry-After"]) {
    assert.equal(await ask(`200 OK\r\n${name}: 1\r\n${name}: 2`), "200 undefined hi {}", name);
  }
  for (const name of ["HTTP2-Settings", "TE", "Keep-Alive", "Upgrade", "Proxy-Connection"]) {
    assert.equal(await ask(`200 OK\r\n${name}: x`), "200 undefined hi {}", name);
    assert.equal(
      await ask(`200 OK|${name}: x\r\nConnection: x\r\nX-Sum: 1\r\n`),
      '200 undefined hi {"x-sum":"1"}',
      name,
    );
  }
  assert.equal(await ask("200 O\x01K"), "200 undefined hi {}");
  assert.match(await ask("600 X"), /^502 /);
  session.close();
});

test("no CONNECT of HTTP/2 gets anywhere", async () => {
  await using secure = await startSecure();
  const session = connectHttp2(`https://${host}:${secure.port}`, {
    ca: secure.ca,
    host: "127.0.0.1",
    servername: host,
  });
  session.on("error", () => undefined);
  const stream = session.request({
    ":method": "CONNECT",
    ":authority": host,
  });
  stream.on("error", () => undefined);
  const status = await Promise.race([
    headOf(stream).then((headers) => String(headers[":status"])),
    once(stream, "close").then(() => "closed"),
  ]);
  assert.notEqual(status, "200");
  assert.deepEqual(secure.edge.dials, []);
  session.destroy();
});

test("WebSockets pass over TLS", async () => {
  await using secure = await startSecure();
  const { edge, port, ca } = secure;
  const server = await edge.serve(userPort, () => undefined);
  server.on("upgrade", (_request, socket) => {
    socket.write(
      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    socket.pipe(socket);
  });
  const socket = connectTls({ port, host: "127.0.0.1", servername: host, ca });
  await once(socket, "secureConnect");
  socket.write(
    `GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nping`,
  );
  let text = "";
  while (!text.endsWith("ping")) text += String((await once(socket, "data"))[0]);
  assert.match(text, /^HTTP\/1\.1 101/);
  socket.destroy();
});

test("files that are no certificate are refused by name", async () => {
  await using edge = await startTestEdge();
  const settings = { certPath: "/nowhere", keyPath: "/nowhere", address: "127.0.0.1", port: 0 };
  await assert.rejects(
    listenTls(edge.listener, edge.connections, settings, silentLogger),
    (error) => TorporError.is(error) && error.code === "argument.invalid",
  );
});
