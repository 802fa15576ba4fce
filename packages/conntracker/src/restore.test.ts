/**
 * What the kernel holds at a restore: connections that no process has accepted, data that no peer has
 * acknowledged, and thousands of sockets to close.
 */
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { type AddressInfo, connect, createServer } from "node:net";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { waitingCount } from "./accept-queue.ts";
import { Fixture, RawClient, http1Servers, until } from "./fixtures.ts";
import type { ServerCommand, ServerReport } from "./stopped-server.ts";

const get = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const getStream = "GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n";

/** A server in a process that the test can stop. */
class StoppableServer {
  readonly #child: ChildProcess;
  readonly #clients: RawClient[] = [];
  #port = 0;
  #address = 0;

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  static async start(t: TestContext): Promise<StoppableServer> {
    const child = fork(join(import.meta.dirname, "stopped-server.ts"));
    const server = new StoppableServer(child);
    t.after(() => {
      child.kill("SIGKILL");
      for (const { socket } of server.#clients) socket.destroy();
    });
    const [port] = (await once(child, "message")) as [number];
    server.#port = port;
    return server;
  }

  /** From here on nothing is accepted, and commands wait. */
  async stop(): Promise<void> {
    this.#child.kill("SIGSTOP");
    const isStopped = (): boolean =>
      / T /.test(readFileSync(`/proc/${this.#child.pid}/stat`, "utf8"));
    await until(isStopped);
  }

  goOn(): void {
    this.#child.kill("SIGCONT");
  }

  async ask(command: ServerCommand): Promise<unknown> {
    const answer = once(this.#child, "message");
    this.#child.send(command);
    return ((await answer) as [unknown])[0];
  }

  async report(): Promise<ServerReport> {
    return (await this.ask("report")) as ServerReport;
  }

  /** Clients that the kernel has connected, each of which has sent `text`. */
  async connect(count: number, text: string): Promise<readonly RawClient[]> {
    const clients: RawClient[] = [];
    while (clients.length < count) {
      const more = Array.from({ length: Math.min(count - clients.length, 250) }, () => {
        // One address has not enough ports for many.
        this.#address = (this.#address % 8) + 1;
        return new RawClient(connect(this.#port, `127.0.0.${this.#address}`));
      });
      for (const { socket } of more) await until(() => !socket.connecting);
      for (const { socket } of more) socket.write(text);
      clients.push(...more);
      this.#clients.push(...more);
    }
    return clients;
  }
}

async function allReset(clients: readonly RawClient[]): Promise<void> {
  for (const client of clients) await client.end();
  const others = clients.filter(({ failure }) => failure !== "ECONNRESET");
  assert.equal(others.length, 0, `not reset: ${others[0]?.failure} ${others[0]?.heard}`);
}

/** What the kernel still has of a connection, as the server sees it. */
function inKernel(serverPort: number, clientPort: number): readonly string[] {
  const hex = (port: number): string => port.toString(16).toUpperCase().padStart(4, "0");
  const ports = new RegExp(`:${hex(serverPort)} [0-9A-F]+:${hex(clientPort)} `);
  const tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
  return tables.flatMap((path) =>
    readFileSync(path, "utf8")
      .split("\n")
      .filter((line) => ports.test(line)),
  );
}

test("connections not accepted at the freeze are destroyed when another way tells of the restore", async (t) => {
  const server = await StoppableServer.start(t);
  await server.ask("prepare");
  await server.stop();
  const waiting = await server.connect(40, get);
  const restored = server.ask("restore");
  server.goOn();
  await restored;
  await allReset(waiting);
  const [client] = await server.connect(1, get);
  assert.match((await client?.hear("served")) ?? "", /Connection: keep-alive/);
  assert.equal((await server.report()).requests, 1, "the new one");
});

const descriptorsMax = Number(execFileSync("sh", ["-c", "ulimit -Hn"], { encoding: "utf8" }));
const forThousands = descriptorsMax > 10_500 ? {} : { skip: "needs 10,500 descriptors" };

test(
  "10,000 connections are reset in slices, and none of them is served meanwhile",
  forThousands,
  async (t) => {
    const server = await StoppableServer.start(t);
    const busy = await server.connect(9_900, getStream);
    for (const client of busy) await client.hear("begun");
    assert.deepEqual(await server.ask("prepare"), { closed: 0, recorded: 9_900 });
    await server.stop();
    const waiting = await server.connect(100, get);
    // ORDER: the announcement first, or the process would serve some requests before it has heard it.
    const restored = server.ask("restore");
    for (const { socket } of busy) socket.write(get);
    server.goOn();
    // One of those that wait may be accepted in the turn that hears of the restore.
    const { destroyed } = (await restored) as { destroyed: number };
    assert.ok(destroyed >= 9_900 && destroyed <= 9_901, String(destroyed));
    await allReset([...busy, ...waiting]);
    const { requests, closedInTurnMax } = await server.report();
    assert.equal(requests, 9_900, "none between the slices");
    assert.ok(closedInTurnMax < 500, `${closedInTurnMax} in one turn`);
  },
);

test("prepareForSnapshot() closes thousands in slices, until settled() resolves", async (t) => {
  const fixture = await Fixture.start(t, http1Servers.http);
  const clients: RawClient[] = [];
  for (let made = 0; made < 600; made += 1) clients.push(await fixture.connect());
  let closed = 0;
  for (const socket of fixture.accepted) socket.once("close", () => (closed += 1));
  assert.deepEqual(fixture.tracker.prepareForSnapshot(), { closed: 600, recorded: 0 });
  assert.ok(fixture.accepted.every(({ destroyed }) => destroyed));
  await nextTurn();
  await nextTurn();
  assert.ok(closed > 0 && closed < 600, `${closed} in two turns`);
  await fixture.tracker.settled();
  await until(() => clients.every((client) => client.closed));
  assert.deepEqual(new Set(clients.map(({ failure }) => failure)), new Set([undefined]));
});

test("what prepareForSnapshot() had not closed at the freeze is reset", async (t) => {
  const fixture = await Fixture.start(t, http1Servers.http);
  const clients: RawClient[] = [];
  for (let made = 0; made < 300; made += 1) clients.push(await fixture.connect());
  fixture.tracker.prepareForSnapshot();
  fixture.tracker.restoreAfterSnapshot(1);
  await fixture.tracker.settled();
  await until(() => clients.every((client) => client.closed));
  const reset = clients.filter(({ failure }) => failure === "ECONNRESET").length;
  assert.ok(reset >= 150 && reset < 300, `${reset} reset`);
});

for (const [server, kind] of Object.entries(http1Servers)) {
  test(`data that a peer has not taken is forgotten by the restore [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const client = await fixture.connect();
    const { localPort } = client;
    assert.ok(localPort !== undefined);
    client.socket.pause();
    client.socket.write(get);
    const { response } = await fixture.next();
    response.write(Buffer.alloc(16 << 20));
    const [socket] = fixture.accepted;
    await until(() => (socket?.bytesWritten ?? 0) > 0);
    assert.equal(inKernel(fixture.port, localPort).length, 1);
    fixture.tracker.prepareForSnapshot();
    assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 1 });
    await fixture.tracker.settled();
    assert.deepEqual(inKernel(fixture.port, localPort), []);
    client.socket.resume();
    await client.end();
  });
}

for (const [server, kind] of Object.entries(http1Servers)) {
  test(`a socket that is being ended in the turn of the restore is closed [${server}]`, async (t) => {
    const fixture = await Fixture.start(t, kind);
    const client = await fixture.connect();
    const { localPort } = client;
    assert.ok(localPort !== undefined);
    await fixture.send(client, get);
    const { request } = await fixture.next();
    fixture.tracker.prepareForSnapshot();
    request.socket.end();
    assert.deepEqual(fixture.tracker.restoreAfterSnapshot(1), { destroyed: 1 });
    await client.end();
    await until(() => fixture.tracker.counts().closed === 1);
    const timeWait = " 06 ";
    const left = inKernel(fixture.port, localPort).filter((line) => !line.includes(timeWait));
    assert.deepEqual(left, []);
  });
}

for (const address of ["127.0.0.1", "::1", "::"]) {
  test(`the kernel tells how many wait to be accepted [${address}]`, async (t) => {
    const server = createServer();
    server.listen(0, address);
    t.after(() => server.close());
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    assert.equal(waitingCount(server), 0);
    const client =
      "require('net').connect(+process.argv[1], process.argv[2], () => process.exit())";
    const dial = (): Buffer =>
      execFileSync(process.execPath, ["-e", client, String(port), address]);
    // This process stands still meanwhile.
    for (let dialled = 0; dialled < 3; dialled += 1) dial();
    assert.equal(waitingCount(server), 3);
    await until(() => waitingCount(server) === 0);
  });
}

test("a server without a port has nothing waiting that a restore would have to destroy", () => {
  assert.equal(waitingCount(createServer()), 0);
});
