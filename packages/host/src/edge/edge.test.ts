/** Plain requests: there and back, what is refused, and what becomes of headers and bodies. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request as httpRequest } from "node:http";
import { test } from "node:test";
import { agentPort, hostKeyHeader } from "@torpor/protocol";
import { addressed, sandboxId, startTestEdge, textOf, userPort } from "./fixtures.ts";
import { trafficTokenOf } from "../traffic-token.ts";

test("a request reaches the port that its host or its headers name, and others the API", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (request, response) => response.end(`guest ${request.url}`));
  const text = async (headers: Record<string, string>): Promise<string> =>
    (await edge.get("/path?q=1", { headers })).text;
  assert.equal(await text(addressed()), "guest /path?q=1");
  assert.equal(await text({ Host: `${userPort}-${sandboxId}.localhost:7330` }), "guest /path?q=1");
  assert.equal(await text({ Host: "api.localhost" }), "api /path?q=1");
  assert.equal(
    await text({ Host: "localhost", Upgrade: "h2c", Connection: "Upgrade" }),
    "api /path?q=1",
  );
});

test("status, headers and body come back as the guest sent them", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (_request, response) => {
    response.writeHead(418, "Short and stout", [
      "Set-Cookie",
      "a=1",
      "Set-Cookie",
      "b=2",
      "X-Case",
      "Kept",
      "Connection",
      "X-Hop",
      "X-Hop",
      "gone",
    ]);
    response.end("tea");
  });
  const answer = await edge.send("/");
  assert.equal(answer.statusCode, 418);
  assert.equal(answer.statusMessage, "Short and stout");
  assert.deepEqual(answer.headers["set-cookie"], ["a=1", "b=2"]);
  assert.ok(answer.rawHeaders.includes("X-Case"));
  assert.equal(answer.headers["x-hop"], undefined);
  assert.equal(await textOf(answer), "tea");
});

test("the guest sees who asked, and nothing that is for the edge or of one connection", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (request, response) => response.end(JSON.stringify(request.headers)));
  const { text } = await edge.get("/", {
    headers: {
      ...addressed(),
      Host: `${userPort}-${sandboxId}.localhost`,
      [hostKeyHeader]: "stolen",
      "E2b-Traffic-Access-Token": "secret",
      "X-Forwarded-For": "203.0.113.9",
      "X-Forwarded-Proto": "https",
      Connection: "keep-alive, X-Mine",
      "X-Mine": "1",
      "Proxy-Authorization": "Basic x",
      TE: "trailers",
      "X-Yours": "2",
    },
  });
  const seen = JSON.parse(text) as Record<string, string>;
  assert.equal(seen["host"], `${userPort}-${sandboxId}.localhost`);
  assert.equal(seen["x-forwarded-for"], "203.0.113.9, 127.0.0.1");
  assert.equal(seen["x-forwarded-proto"], "https", "a proxy in front has said so");
  assert.equal(seen["x-forwarded-host"], `${userPort}-${sandboxId}.localhost`);
  assert.equal(seen["x-yours"], "2");
  for (const name of [
    hostKeyHeader,
    "e2b-traffic-access-token",
    "x-mine",
    "proxy-authorization",
    "te",
  ]) {
    assert.equal(seen[name], undefined, name);
  }
});

test("bodies pass both ways without being stored, with and without a length", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (request, response) => {
    response.writeHead(200, { "X-Length": request.headers["content-length"] ?? "none" });
    response.flushHeaders();
    request.pipe(response);
  });
  const sized = await edge.get("/", { method: "POST", body: "x".repeat(100_000) });
  assert.equal(sized.headers["x-length"], "100000");
  assert.equal(sized.text.length, 100_000);
  const empty = await edge.get("/", { method: "POST", headers: addressed() });
  assert.equal(empty.text, "");

  // Chunk by chunk: each is answered before the next is sent.
  const { promise, resolve } = Promise.withResolvers<import("node:http").IncomingMessage>();
  const headers = { ...addressed(), "Transfer-Encoding": "chunked" };
  const outgoing = httpRequest({ port: edge.port, method: "POST", headers }, resolve);
  outgoing.flushHeaders();
  const answer = await promise;
  for (const word of ["one", "two", "three"]) {
    outgoing.write(word);
    assert.equal(String((await once(answer, "data"))[0]), word);
  }
  outgoing.end();
  await once(answer, "end");
});

test("whoever reads slowly slows down the guest", async () => {
  await using edge = await startTestEdge();
  let sentBytes = 0;
  const chunk = Buffer.alloc(64 * 1024);
  await edge.serve(userPort, (_request, response) => {
    const pump = (): void => {
      while (!response.destroyed && response.write(chunk)) sentBytes += chunk.length;
      response.once("drain", pump);
    };
    pump();
  });
  const answer = await edge.send("/");
  answer.pause();
  let before = -1;
  while (sentBytes !== before) {
    before = sentBytes;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.ok(sentBytes < 32 * 1024 * 1024, `${sentBytes} bytes are on their way`);
  answer.destroy();
});

test("a client that leaves takes its request to the guest along", async () => {
  await using edge = await startTestEdge();
  const left = Promise.withResolvers<void>();
  await edge.serve(userPort, (_request, response) => {
    response.once("close", () => left.resolve());
    response.write("first");
  });
  const answer = await edge.send("/");
  await once(answer, "data");
  answer.destroy();
  await left.promise;
});

test("server-sent events come one by one, and count as a use of the sandbox", async () => {
  await using edge = await startTestEdge();
  const next = Promise.withResolvers<void>();
  await edge.serve(userPort, (_request, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.flushHeaders();
    void next.promise.then(() => response.write("data: 1\n\n"));
  });
  const answer = await edge.send("/");
  assert.equal(answer.headers["content-type"], "text/event-stream", "before any event");
  next.resolve();
  assert.equal(String((await once(answer, "data"))[0]), "data: 1\n\n");
  assert.equal(edge.sandbox.run?.traffic.count, 1);
  answer.destroy();
});

test("Expect: 100-continue is the guest's to answer", async () => {
  await using edge = await startTestEdge();
  const server = createServer((request, response) => request.pipe(response));
  server.on("checkContinue", (request, response) => {
    if (request.url === "/no") {
      response.writeHead(417).end();
      return;
    }
    response.writeContinue();
    request.pipe(response);
  });
  await edge.serve(userPort, server);
  const ask = async (path: string): Promise<string> => {
    const headers = { ...addressed(), Expect: "100-continue", "Content-Length": "5" };
    const outgoing = httpRequest({ port: edge.port, method: "PUT", path, headers });
    outgoing.flushHeaders();
    let continued = false;
    outgoing.on("continue", () => {
      continued = true;
      outgoing.end("hello");
    });
    outgoing.on("error", () => undefined);
    const [answer] = (await once(outgoing, "response")) as [import("node:http").IncomingMessage];
    const text = await textOf(answer);
    outgoing.destroy();
    return `${answer.statusCode} ${continued} ${text}`;
  };
  assert.equal(await ask("/yes"), "200 true hello");
  assert.equal(await ask("/no"), "417 false ");
});

test("HEAD, 204 and 304 have no body and do not hold up the next request", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (request, response) => {
    const status = Number(request.url?.slice(1));
    response.writeHead(status, status === 200 ? { "Content-Length": 5 } : {});
    response.end(request.method === "HEAD" || status !== 200 ? undefined : "hello");
  });
  const socket = await edge.connect();
  let text = "";
  socket.on("data", (chunk) => (text += String(chunk)));
  const named = `Host: ${userPort}-${sandboxId}.localhost\r\n`;
  socket.write(`HEAD /200 HTTP/1.1\r\n${named}\r\nGET /204 HTTP/1.1\r\n${named}\r\n`);
  socket.write(`GET /304 HTTP/1.1\r\n${named}\r\nGET /200 HTTP/1.1\r\n${named}\r\n`);
  while (!text.endsWith("hello")) await once(socket, "data");
  assert.deepEqual(
    [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status),
    ["200", "204", "304", "200"],
  );
  socket.destroy();
});

test("trailers pass", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (_request, response) => {
    response.writeHead(200, { Trailer: "X-Sum" });
    response.write("body");
    response.addTrailers({ "X-Sum": "42" });
    response.end();
  });
  const answer = await edge.send("/");
  await textOf(answer);
  assert.equal(answer.trailers["x-sum"], "42");
});

test("a sandbox that is not there is 502, in the words of the wire", async () => {
  await using edge = await startTestEdge();
  const unknown = await edge.get("/", { headers: addressed(userPort, "inone") });
  assert.equal(unknown.status, 502);
  assert.equal(unknown.headers["content-type"], "application/json; charset=utf-8");
  assert.equal(unknown.headers["access-control-allow-origin"], "*");
  assert.deepEqual(JSON.parse(unknown.text), {
    message: "The sandbox was not found",
    sandboxId: "inone",
    code: 502,
  });
  edge.sandbox.end();
  const paused = await edge.get("/");
  assert.equal(paused.status, 502);
  assert.deepEqual(JSON.parse(paused.text), {
    message: "The sandbox was not found: it is paused",
    sandboxId,
    code: 502,
  });
  assert.equal(paused.headers["should-retry"], "false");
  assert.equal(edge.sandbox.resumes, 0);
});

test("a port that nobody listens on is 502 with the port", async () => {
  await using edge = await startTestEdge();
  const { status, text } = await edge.get("/", { headers: addressed(81) });
  assert.equal(status, 502);
  assert.deepEqual(JSON.parse(text), {
    message: "The sandbox is running but port 81 is not open",
    sandboxId,
    port: 81,
    code: 502,
  });
});

test("a guest that answers nonsense, or not at all, is 502", async () => {
  await using edge = await startTestEdge();
  const server = await edge.serve(userPort, () => undefined);
  server.removeAllListeners("connection");
  server.on("connection", (socket) => {
    socket.once("data", () => socket.end("SSH-2.0-nonsense\r\n"));
  });
  assert.equal((await edge.get("/")).status, 502);
  server.removeAllListeners("connection");
  server.on("connection", (socket) => socket.destroy());
  assert.equal((await edge.get("/")).status, 502);
  server.removeAllListeners("connection");
  server.on("connection", (socket) => {
    socket.once("data", () =>
      socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"),
    );
  });
  assert.equal((await edge.get("/")).status, 502, "nobody asked for another protocol");
});

test("what names a sandbox wrongly is 400", async () => {
  await using edge = await startTestEdge();
  assert.equal((await edge.get("/", { headers: { "E2b-Sandbox-Id": sandboxId } })).status, 400);
  assert.equal((await edge.get("/", { headers: { Host: "0-itest.localhost" } })).status, 400);
});

test("private routes of the agent are 404, whoever asks and whether or not it runs", async () => {
  await using edge = await startTestEdge();
  edge.sandbox.end();
  for (const path of ["/init", "/init?x", "/snapshot/prepare", "http://host/snapshot/cancel"]) {
    const headers = { ...addressed(agentPort), Host: "host", [hostKeyHeader]: "host key" };
    const { status, text } = await edge.get(path, { method: "POST", headers });
    assert.equal(status, 404, path);
    assert.equal(
      (JSON.parse(text) as { path: string }).path,
      path.replace(/^http:..host|\?x$/g, ""),
    );
  }
  assert.deepEqual(edge.dials, []);
});

test("no client can ask for a tunnel", async () => {
  await using edge = await startTestEdge();
  const socket = await edge.connect();
  const named = `E2b-Sandbox-Id: ${sandboxId}\r\nE2b-Sandbox-Port: ${agentPort}\r\n`;
  socket.write(
    `CONNECT localhost:22 HTTP/1.1\r\nHost: x\r\n${named}${hostKeyHeader}: host key\r\n\r\n`,
  );
  assert.doesNotMatch(await textOf(socket), /200/);
  assert.deepEqual(edge.dials, []);
});

test("a browser gets a page, a script of a page does not", async () => {
  await using edge = await startTestEdge();
  edge.sandbox.end();
  const browser = { "User-Agent": "Mozilla/5.0", Accept: "text/html,*/*;q=0.8" };
  const page = await edge.get("/<b>", {
    headers: { ...addressed(), ...browser, "Sec-Fetch-Mode": "navigate" },
  });
  assert.equal(page.status, 502);
  assert.match(page.headers["content-type"] ?? "", /^text\/html/);
  assert.match(page.text, new RegExp(`is asleep.*torpor resume.*${sandboxId}`, "s"));
  assert.doesNotMatch(page.text, /not found/);
  for (const more of [
    { "Sec-Fetch-Mode": "cors" },
    { "X-Requested-With": "x" },
    { Accept: "*/*" },
  ]) {
    const { headers } = await edge.get("/", { headers: { ...addressed(), ...browser, ...more } });
    assert.match(headers["content-type"] ?? "", /^application\/json/);
  }
});

test("a preflight that reaches no guest is answered, others are the guest's", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (_request, response) => response.writeHead(299).end());
  const headers = {
    ...addressed(),
    Origin: "http://x",
    "Access-Control-Request-Method": "PUT",
    "Access-Control-Request-Headers": "x-mine",
  };
  assert.equal((await edge.get("/", { method: "OPTIONS", headers })).status, 299);
  edge.sandbox.end();
  const answer = await edge.get("/", { method: "OPTIONS", headers });
  assert.equal(answer.status, 204);
  assert.equal(answer.headers["access-control-allow-origin"], "*");
  assert.equal(answer.headers["access-control-allow-methods"], "PUT");
  assert.equal(answer.headers["access-control-allow-headers"], "x-mine");
  assert.equal(answer.headers["access-control-max-age"], "86400");
});

test("private traffic wants the token on all ports but the agent's", async () => {
  await using edge = await startTestEdge({ network: { allowPublicTraffic: false } });
  await edge.serve(userPort, (_request, response) => response.end("in"));
  const token = trafficTokenOf(edge.sandbox.record);
  assert.ok(token !== null);
  const status = async (headers: Record<string, string>, port = userPort): Promise<number> =>
    (await edge.get("/", { headers: { ...addressed(port), ...headers } })).status;
  assert.equal(await status({}), 403);
  assert.equal(await status({ "e2b-traffic-access-token": `${token.slice(1)}x` }), 403);
  assert.equal(await status({ "e2b-traffic-access-token": token }), 200);
  assert.equal(await status({}, agentPort), 200);
});

test("the guest sees the host name that its owner wants it to see", async () => {
  await using edge = await startTestEdge({ network: { maskRequestHost: "localhost:${PORT}" } });
  await edge.serve(userPort, ({ headers }, response) =>
    response.end(`${headers.host} ${String(headers["x-forwarded-host"])}`),
  );
  const host = `${userPort}-${sandboxId}.localhost`;
  assert.equal(
    (await edge.get("/", { headers: { Host: host } })).text,
    `localhost:${userPort} ${host}`,
  );
});

test("connections are kept where the guest's server says for how long", async () => {
  await using edge = await startTestEdge();
  const server = await edge.serve(userPort, (_request, response) => response.end("x"));
  for (let count = 0; count < 3; count += 1) await edge.get("/");
  assert.equal(edge.dials.length, 1, "Node announces it");
  server.on("request", (_request, response) => response.removeHeader("keep-alive"));
  const silent = createServer((request, response) => {
    response.writeHead(200, { Connection: "keep-alive" });
    response.end("x");
    void request;
  });
  silent.keepAliveTimeout = 0;
  await edge.serve(userPort + 1, silent);
  for (let count = 0; count < 3; count += 1) {
    await edge.get("/", { headers: addressed(userPort + 1) });
  }
  assert.equal(edge.dials.filter((port) => port === userPort + 1).length, 3);
});

test("a request that an idle connection fails is sent again, unless it may not be repeated", async () => {
  await using edge = await startTestEdge();
  const announced = "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n";
  const server = await edge.serve(userPort, () => undefined);
  server.removeAllListeners("connection");
  server.on("connection", (socket) => {
    socket.once("data", () => {
      socket.write(announced);
      socket.once("data", () => socket.destroy());
    });
  });
  await edge.get("/");
  assert.equal((await edge.get("/")).status, 200);
  assert.equal(edge.dials.length, 2);
  assert.equal((await edge.get("/", { method: "POST", body: "once" })).status, 502);
  assert.equal(edge.dials.length, 2);
});

test("a reason that no header may hold is replaced by the usual one", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, ({ socket, url }) => {
    const reason = url === "/latin" ? "tr\xe8s bien" : "O\x01K\x7f";
    socket.end(`HTTP/1.1 200 ${reason}\r\nContent-Length: 2\r\n\r\nhi`, "latin1");
  });
  assert.equal((await edge.send("/latin")).statusMessage, "tr\xe8s bien");
  const answer = await edge.send("/");
  assert.equal(`${answer.statusMessage} ${await textOf(answer)}`, "OK hi");
});

test("a sandbox that stands still for want of disk space is said to, and served when it goes on", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (_request, response) => response.end("guest"));
  const { run } = edge.sandbox;
  assert.ok(run !== undefined);
  run.isStalled = true;
  const { status, headers, text } = await edge.get("/");
  assert.deepEqual([status, headers["retry-after"]], [503, "1"]);
  assert.match(text, /stands still/);
  run.isStalled = false;
  assert.equal((await edge.get("/")).text, "guest");
});
