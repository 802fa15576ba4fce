/**
 * Clients and servers in the guest, through the edge: by host name, by WebSocket, on the guest's own
 * loopback, across a pause, and to a sandbox that sleeps. On a network where the host reaches the
 * agent only, all ports are reached through it.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { performance } from "node:perf_hooks";
import { test } from "node:test";
import { Sandbox as E2b } from "e2b";
import { Deadline, parseJson } from "@torpor/std";
import {
  type GuestProcess,
  type TestDaemon,
  type TestSandbox,
  failsWith,
  startTestDaemon,
} from "@torpor/testing";
import { underQemu } from "./qemu-only.ts";

const openPort = 3000;
const loopbackPort = 3001;
const waitMs = 60_000;

/** Answers requests, `/hang` never, echoes short frames of WebSockets, and streams on `/stream` for ever. */
const server = `
const { createHash } = require("node:crypto");
const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const [port, address] = process.argv.slice(1);
require("node:http").createServer((request, response) => {
  if (request.url === "/hang") return require("node:fs").writeFileSync("/tmp/hanging", "");
  if (request.url !== "/stream") return response.end("from " + request.headers.host);
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  response.write("data: 1\\n\\n");
}).on("upgrade", ({ headers }, socket) => {
  const accept = createHash("sha1").update(headers["sec-websocket-key"] + guid).digest("base64");
  socket.write("HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n" +
    "Sec-WebSocket-Accept: " + accept + "\\r\\n\\r\\n");
  socket.on("error", () => undefined).on("data", (frame) => {
    const length = frame[1] & 127;
    const text = frame.subarray(6, 6 + length).map((byte, index) => byte ^ frame[2 + index % 4]);
    socket.write(Buffer.concat([Buffer.from([0x81, length]), text]));
  });
}).listen(Number(port), address, () => console.log("listening"));
`;

/** Disposing what it returns lets the server run on. */
async function startServer(
  sandbox: TestSandbox,
  port: number,
  address: string,
): Promise<GuestProcess> {
  const process = await sandbox.start(["node", "-e", server, String(port), address]);
  assert.equal(await process.readLine(), "listening");
  return process;
}

async function urlOf({ api }: TestDaemon): Promise<string> {
  const { text } = await api.call("GET", "/torpor/daemon");
  return (parseJson(text, "daemon") as { readonly url: string }).url;
}

/** A request as a browser sends it: only its host says where it goes. */
async function get(
  daemon: TestDaemon,
  sandbox: TestSandbox,
  port: number,
  path = "/",
): Promise<IncomingMessage> {
  const url = await urlOf(daemon);
  const headers = { host: `${port}-${sandbox.id}.localhost` };
  const { signal } = Deadline.after(waitMs, path);
  const outgoing = httpRequest(`${url}${path}`, { headers, agent: false, signal });
  outgoing.end();
  const [answer] = (await once(outgoing, "response")) as [IncomingMessage];
  return answer;
}

async function textOf(answer: IncomingMessage): Promise<string> {
  let text = "";
  for await (const chunk of answer) text += String(chunk);
  return text;
}

async function openWebSocket(
  daemon: TestDaemon,
  sandbox: TestSandbox,
  port: number,
): Promise<WebSocket> {
  const url = await urlOf(daemon);
  const headers = { "E2b-Sandbox-Id": sandbox.id, "E2b-Sandbox-Port": String(port) };
  // Node's client takes headers, which a browser's does not.
  const Client = WebSocket as unknown as new (url: string, init: object) => WebSocket;
  const socket = new Client(url.replace("http", "ws"), { headers });
  await Deadline.after(waitMs, "a WebSocket").race(once(socket, "open"));
  return socket;
}

async function echo(socket: WebSocket, text: string): Promise<string> {
  const answer = once(socket, "message") as Promise<[MessageEvent]>;
  socket.send(text);
  return String((await Deadline.after(waitMs, "an echo").race(answer))[0].data);
}

test("clients reach servers in the guest", async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create("base", { autoResume: { enabled: true } });
  using servers = new DisposableStack();
  servers.use(await startServer(sandbox, openPort, "0.0.0.0"));
  servers.use(await startServer(sandbox, loopbackPort, "127.0.0.1"));

  await t.test("by a host name", async () => {
    const answer = await get(daemon, sandbox, openPort);
    assert.equal(answer.statusCode, 200);
    assert.equal(await textOf(answer), `from ${openPort}-${sandbox.id}.localhost`);
  });

  await t.test("by WebSocket", async () => {
    const socket = await openWebSocket(daemon, sandbox, openPort);
    assert.equal(await echo(socket, "hello"), "hello");
    socket.close();
  });

  await t.test("where they listen on the guest's own loopback only", async () => {
    const answer = await get(daemon, sandbox, loopbackPort);
    assert.equal(await textOf(answer), `from ${loopbackPort}-${sandbox.id}.localhost`);
    const socket = await openWebSocket(daemon, sandbox, loopbackPort);
    assert.equal(await echo(socket, "hello"), "hello");
    socket.close();
  });

  await t.test("and are told of a port that nobody listens on", async () => {
    const answer = await get(daemon, sandbox, 3002);
    assert.equal(answer.statusCode, 502);
    assert.match(await textOf(answer), /running but port 3002 is not open/);
  });

  await t.test(
    "a pause that works tells whoever is cut off, and a slow client holds nothing up",
    async () => {
      using command = await sandbox.start(["sleep", "1000"]);
      const webSocket = await openWebSocket(daemon, sandbox, openPort);
      const tunnelled = await openWebSocket(daemon, sandbox, loopbackPort);
      const events = await get(daemon, sandbox, openPort, "/stream");
      await once(events, "data");
      const hung = get(daemon, sandbox, openPort, "/hang");
      // One that comes a moment later waits for the pause, and then wakes the sandbox.
      await sandbox.shell("until [ -e /tmp/hanging ]; do sleep 0.1; done");
      const codes = [webSocket, tunnelled].map(
        (one) => once(one, "close") as Promise<[CloseEvent]>,
      );
      await sandbox.pause();
      const pausedMonoMs = performance.now();
      await assert.rejects(command.finish(), (error) =>
        /\[unavailable\] The sandbox was paused/.test(String(error)),
      );
      for (const code of codes) assert.equal((await code)[0].code, 1012);
      await assert.rejects(textOf(events));
      assert.equal((await hung).statusCode, 502);
      assert.ok(performance.now() - pausedMonoMs < 1_000, "at once");
    },
  );

  await t.test("and so is the E2B client", async () => {
    const url = await urlOf(daemon);
    const made = await daemon.api.call("POST", "/torpor/api-keys", { name: "edge" });
    const { key: apiKey } = parseJson(made.text, "key") as { readonly key: string };
    const options = { apiKey, apiUrl: url, sandboxUrl: url };
    const client = await E2b.connect(sandbox.id, options);
    assert.equal((await client.commands.run("echo hello")).stdout, "hello\n");
    const command = client.commands.run("sleep 1000", { timeoutMs: 0 });
    const told = assert.rejects(command, { name: "TimeoutError" });
    await sandbox.shell("until pgrep -x sleep; do sleep 0.1; done");
    await sandbox.pause();
    await told;
  });

  await t.test("ten requests to a sandbox that sleeps wake it once", async () => {
    const before = (await sandbox.info()).generation;
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => get(daemon, sandbox, loopbackPort)),
    );
    for (const answer of answers) {
      assert.equal(await textOf(answer), `from ${loopbackPort}-${sandbox.id}.localhost`);
    }
    const { state, generation } = await sandbox.info();
    assert.equal(state, "running");
    assert.equal(generation, before + 1);
  });

  await t.test("the agent's port wakes it only with the token", async () => {
    await sandbox.pause();
    assert.equal((await sandbox.request(49_983, "GET", "/files")).status, 403);
    assert.equal((await sandbox.request(49_983, "GET", "/health")).status, 502);
    assert.equal((await sandbox.info()).state, "paused");
    assert.equal(await sandbox.shell("echo awake"), "awake");
  });

  await t.test("requests during a pause wait, and then wake it", async () => {
    const pause = sandbox.pause();
    const answers = await Promise.all(
      Array.from({ length: 3 }, () => get(daemon, sandbox, openPort)),
    );
    for (const { statusCode } of answers) assert.equal(statusCode, 200);
    await pause;
  });

  await t.test("one that traffic may not wake stays asleep", async () => {
    const other = await daemon.create();
    await other.pause();
    const answer = await get(daemon, other, openPort);
    assert.equal(answer.statusCode, 502);
    assert.match(await textOf(answer), /The sandbox was not found: it is paused/);
    await other.remove();
    assert.equal((await get(daemon, other, openPort)).statusCode, 502);
  });

  await t.test("requests during a snapshot wait until it goes on, and streams live", async () => {
    const socket = await openWebSocket(daemon, sandbox, openPort);
    const snapshot = sandbox.snapshot("mid-traffic");
    const answer = await get(daemon, sandbox, openPort);
    assert.equal(answer.statusCode, 200);
    await snapshot;
    assert.equal(await echo(socket, "still"), "still");
    socket.close();
  });
});

const skip = underQemu;
test("on a network that leads to the agent only, all ports are reached", { skip }, async () => {
  await using daemon = await startTestDaemon({ networkKind: "user" });
  const sandbox = await daemon.create();
  using servers = new DisposableStack();
  servers.use(await startServer(sandbox, openPort, "0.0.0.0"));
  const answer = await get(daemon, sandbox, openPort);
  assert.equal(await textOf(answer), `from ${openPort}-${sandbox.id}.localhost`);
  const socket = await openWebSocket(daemon, sandbox, openPort);
  assert.equal(await echo(socket, "hello"), "hello");
  await sandbox.pause();
  await assert.rejects(sandbox.pause(), failsWith("sandbox.wrongState"));
});
