/** A connection to a guest carries another request only after both sides ended where framing says. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, type Socket, createServer } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { sandboxId, startTestEdge, userPort, type TestEdge } from "./fixtures.ts";

const host = `Host: ${userPort}-${sandboxId}.localhost\r\n`;
const keep = "Keep-Alive: timeout=5\r\n";
const ok = `HTTP/1.1 200 OK\r\n${keep}`;
const complete = `${ok}Content-Length: 2\r\n\r\nhi`;
const get = `GET / HTTP/1.1\r\n${host}\r\n`;

/** A guest that calls `answer` whenever bytes come. */
async function serveRaw(
  edge: TestEdge,
  answer: (socket: Socket) => void,
): Promise<AsyncDisposable> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => socket.destroy());
    socket.on("data", () => answer(socket));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  edge.lead(userPort, (server.address() as AddressInfo).port);
  return {
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

/** @returns the answer, with its body where there is one. */
async function ask(edge: TestEdge, text: string): Promise<string> {
  const socket = await edge.connect();
  socket.write(text);
  let seen = "";
  const end = text.startsWith("HEAD") ? /\r\n\r\n$/ : / (?:204|304) [^]*\r\n\r\n$|hi$|\n0\r\n\r\n$/;
  while (!end.test(seen)) {
    const [chunk] = (await once(socket, "data")) as [Buffer];
    seen += chunk.toString("latin1");
  }
  socket.destroy();
  await sleep(20); // what is sent a moment later has come
  return seen;
}

const reused: Readonly<Record<string, readonly [request: string, answer: string]>> = {
  "of a length": [get, complete],
  "in chunks": [get, `${ok}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n`],
  "without a body": [get, `HTTP/1.1 204 No\r\n${keep}\r\n`],
  "not modified": [get, `HTTP/1.1 304 No\r\n${keep}\r\n`],
};

const notReused: typeof reused = {
  "with a byte behind it": [get, `${complete}!`],
  "with half an answer behind it": [get, `${complete}HTTP/1.1 200 OK\r\n`],
  "with an empty line behind it": [get, `${complete}\r\n`],
  "in chunks, with a byte behind them": [
    get,
    `${ok}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nx`,
  ],
  "until the end": [get, `${ok}\r\nhi`],
  "of HTTP/1.0": [get, complete.replace("1.1", "1.0")],
  "that says close": [get, complete.replace("\r\n", "\r\nConnection: x, Close\r\n")],
  "to HEAD, of a length": [get.replace("GET", "HEAD"), `${ok}Content-Length: 2\r\n\r\n`],
  "to HEAD, with a body": [get.replace("GET", "HEAD"), complete],
  "that is not modified, with a length": [
    get,
    `HTTP/1.1 304 No\r\n${keep}Content-Length: 2\r\n\r\n`,
  ],
  "without a promise": [get, complete.replace(keep, "")],
  "with a promise of no time": [get, complete.replace("=5", "=1")],
  "before the body came": [`POST / HTTP/1.1\r\n${host}Content-Length: 5\r\n\r\n12`, complete],
  "before the chunks ended": [
    `POST / HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n`,
    complete,
  ],
};

for (const [kind, [request, answer]] of Object.entries(reused)) {
  test(`an answer ${kind} leaves its connection for another`, async () => {
    await using edge = await startTestEdge();
    await using guest = await serveRaw(edge, (socket) => socket.write(answer, "latin1"));
    void guest;
    for (let count = 0; count < 3; count += 1) await ask(edge, request);
    assert.equal(edge.dials.length, 1);
  });
}

for (const [kind, [request, answer]] of Object.entries(notReused)) {
  test(`an answer ${kind} ends its connection`, async () => {
    await using edge = await startTestEdge();
    let answered = 0;
    await using guest = await serveRaw(edge, (socket) => {
      answered += 1;
      socket.write(answered === 1 ? answer : complete, "latin1");
      if (kind === "until the end" && answered === 1) socket.end();
    });
    void guest;
    await ask(edge, request);
    assert.match(await ask(edge, get), /^HTTP\/1\.1 200 OK\r\n[^]*hi$/);
    assert.equal(edge.dials.length, 2);
  });
}

test("what a guest sends on an idle connection is nobody's answer", async () => {
  await using edge = await startTestEdge();
  let answered = 0;
  await using guest = await serveRaw(edge, (socket) => {
    answered += 1;
    socket.write(complete, "latin1");
    if (answered > 1) return;
    setTimeout(() => socket.write(complete.replace("hi", "no"), "latin1"), 5);
  });
  void guest;
  await ask(edge, get);
  assert.match(await ask(edge, get), /hi$/);
  assert.equal(edge.dials.length, 2);
});
