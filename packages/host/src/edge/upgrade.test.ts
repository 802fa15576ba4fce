/** Requests that leave HTTP behind, WebSockets foremost. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import type { Duplex } from "node:stream";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { sandboxId, startTestEdge, textOf, userPort, type TestEdge } from "./fixtures.ts";

const head =
  `GET /chat HTTP/1.1\r\nHost: ${userPort}-${sandboxId}.localhost\r\n` +
  "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const agreed =
  "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Case: Kept\r\n\r\n";
const hello = Buffer.from([0x81, 5, ...Buffer.from("hello")]);

/** A guest that agrees to any upgrade. */
async function serveUpgrades(
  edge: TestEdge,
  onUpgrade: (socket: Duplex, first: Buffer) => void,
): Promise<void> {
  const server = createServer((_request, response) => response.writeHead(426).end("no"));
  server.on("upgrade", (_request, socket, first) => {
    socket.on("error", () => socket.destroy());
    onUpgrade(socket, first);
  });
  await edge.serve(userPort, server);
}

async function readBytes(socket: Duplex, wanted: string): Promise<Buffer> {
  let bytes = Buffer.alloc(0);
  while (!bytes.includes(wanted)) {
    const [chunk] = (await once(socket, "data")) as [Buffer];
    bytes = Buffer.concat([bytes, chunk]);
  }
  return bytes;
}

test("bytes pass both ways, also those sent before the answer", async () => {
  await using edge = await startTestEdge();
  await serveUpgrades(edge, (socket, first) => {
    socket.write(`${agreed}early `);
    if (first.length > 0) socket.write(first);
    socket.pipe(socket);
  });
  const socket = await edge.connect();
  socket.write(`${head}eager `);
  const answer = (await readBytes(socket, "eager")).toString();
  assert.match(answer, /^HTTP\/1\.1 101 Switching Protocols\r\n/);
  assert.match(answer, /X-Case: Kept/);
  assert.ok(answer.endsWith("early eager "));
  socket.write("later");
  await readBytes(socket, "later");
  assert.equal(edge.sandbox.run?.traffic.count, 1);
  socket.destroy();
});

test("the end of either is the end of both, and what was written before it arrives", async () => {
  await using edge = await startTestEdge();
  const ended = Promise.withResolvers<void>();
  await serveUpgrades(edge, (socket) => {
    socket.write(agreed);
    socket.once("data", () => socket.end("x".repeat(1_000_000)));
    socket.once("close", () => ended.resolve());
  });
  const socket = await edge.connect();
  socket.write(head);
  await readBytes(socket, "\r\n\r\n");
  socket.write("go");
  assert.equal((await textOf(socket)).length, 1_000_000);
  await ended.promise;
});

test("a guest may decline, and so may the edge", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (_request, response) => response.writeHead(426).end("no"));
  const declined = await edge.connect();
  declined.write(head);
  assert.match(await textOf(declined), /^HTTP\/1\.1 426[^]*no/);
  edge.sandbox.end();
  const refused = await edge.connect();
  refused.write(head);
  assert.match(await textOf(refused), /^HTTP\/1\.1 502[^]*it is paused/);
});

for (const [ending, code] of [
  ["paused", 1012],
  ["stopped", 1001],
] as const) {
  test(`a WebSocket of a sandbox that is ${ending} is closed with ${code}`, async () => {
    await using edge = await startTestEdge();
    await serveUpgrades(edge, (socket) => {
      socket.write(agreed);
      socket.write(hello);
    });
    const socket = await edge.connect();
    socket.write(head);
    await readBytes(socket, "hello");
    edge.sandbox.end(ending);
    const [frame] = (await once(socket, "data")) as [Buffer];
    assert.equal(frame.readUInt8(0), 0x88);
    assert.equal(frame.readUInt16BE(2), code);
    assert.equal(frame.subarray(4).toString(), `the sandbox was ${ending}`);
    await once(socket, "end");
  });
}

test("in the middle of a frame it is cut", async () => {
  await using edge = await startTestEdge();
  await serveUpgrades(edge, (socket) => {
    socket.write(agreed);
    socket.write(hello.subarray(0, 4));
  });
  const socket = await edge.connect();
  socket.write(head);
  await readBytes(socket, "he");
  const closed = once(socket, "close");
  edge.sandbox.end();
  await closed;
});

test("an upgrade that is sent before an earlier answer is an ordinary request", async () => {
  await using edge = await startTestEdge();
  const server = await edge.serve(userPort, (request, response) => response.end(request.url));
  server.on("upgrade", (_request, socket) => socket.end(agreed));
  const host = `Host: ${userPort}-${sandboxId}.localhost\r\n`;
  for (const first of [host, "Host: api\r\n"]) {
    const socket = await edge.connect();
    socket.write(`GET /first HTTP/1.1\r\n${first}\r\n${head}`);
    const text = (await readBytes(socket, "/chat")).toString();
    assert.match(text, /^HTTP\/1\.1 200 OK\r\n[^]*\/firstHTTP\/1\.1 200 OK\r\n[^]*\/chat$/);
    if (!socket.readableEnded) await once(socket, "end");
  }
});

test("what is sent behind an upgrade that is not heeded is not served", async () => {
  await using edge = await startTestEdge();
  const paths: string[] = [];
  await edge.serve(userPort, (request, response) => {
    paths.push(String(request.url));
    request.pipe(response);
  });
  const host = `Host: ${userPort}-${sandboxId}.localhost\r\n`;
  const socket = await edge.connect();
  socket.write(
    `PUT /first HTTP/1.1\r\n${host}Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nhi` +
      `PUT /second HTTP/1.1\r\n${host}Content-Length: 1000\r\n\r\n`,
  );
  await sleep(20);
  socket.write(`GET /inside HTTP/1.1\r\n${host}\r\n`);
  assert.match(await textOf(socket), /^HTTP\/1\.1 200 [^]*Connection: close[^]*hi/);
  assert.deepEqual(paths, ["/first"]);
});

test("an upgrade with a body, or over HTTP/1.0, is an ordinary request", async () => {
  await using edge = await startTestEdge();
  const server = await edge.serve(userPort, (request, response) => {
    request.pipe(response);
  });
  server.on("upgrade", (_request, socket) => socket.end(agreed));
  const close = head.replace("\r\n\r\n", "\r\n");
  for (const [framing, body] of [
    ["Content-Length: 4\r\n\r\n", "body"],
    ["Transfer-Encoding: chunked\r\n\r\n", "4\r\nbody\r\n0\r\n\r\n"],
  ]) {
    const socket = await edge.connect();
    socket.write(close + framing + body);
    assert.match((await readBytes(socket, "body")).toString(), /^HTTP\/1\.1 200/);
    socket.destroy();
  }
  const socket = await edge.connect();
  socket.write(head.replace("HTTP/1.1", "HTTP/1.0"));
  assert.match(await textOf(socket), /^HTTP\/1\.1 200/);
});

test("a request line with a version that is not spoken is 505, guest or API", async () => {
  await using edge = await startTestEdge();
  for (const version of ["2.0", "0.9"]) {
    for (const host of ["x", `${userPort}-${sandboxId}.localhost`]) {
      const socket = await edge.connect();
      socket.write(`GET / HTTP/${version}\r\nHost: ${host}\r\n\r\n`);
      assert.match(await textOf(socket), /^HTTP\/1\.1 505 /);
    }
  }
  assert.deepEqual(edge.dials, []);
});
