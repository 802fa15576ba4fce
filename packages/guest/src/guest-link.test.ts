import assert from "node:assert/strict";
import { once } from "node:events";
import { type Server, createServer } from "node:http";
import { type AddressInfo, Socket, connect, createServer as createTcpServer } from "node:net";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { agentPort, hostKeyHeader, monotonicHeader } from "@torpor/protocol";
import { Deadline, TorporError } from "@torpor/std";
import { GuestLink } from "./guest-link.ts";

/** Nobody listens there: a port for servers of the system alone. */
const closedPort = 1;
const localPort = 3000;

/** A guest whose agent knows one server on the loopback, which greets. */
async function startGuest(dialable: readonly number[] = []): Promise<{
  readonly link: GuestLink;
  readonly asked: readonly string[];
  [Symbol.asyncDispose](): Promise<void>;
}> {
  const asked: string[] = [];
  const agent: Server = createServer().on("connect", (request, socket) => {
    asked.push(`${request.url} ${String(request.headers[hostKeyHeader])}`);
    const isOpen = request.url === `localhost:${localPort}`;
    if (isOpen) socket.write("HTTP/1.1 200 OK\r\n\r\nhello");
    else socket.end("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
  });
  const direct = createTcpServer((socket) => socket.end("direct"));
  for (const server of [agent, direct]) {
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
  }
  const portOf = (server: typeof direct): number => (server.address() as AddressInfo).port;
  const link = new GuestLink({
    hostKey: "key",
    dial: (port) => {
      if (port === agentPort) return connect(portOf(agent), "127.0.0.1");
      if (port === 99) throw new TorporError("network.failed", "only the agent is in reach");
      return connect(dialable.includes(port) ? portOf(direct) : closedPort, "127.0.0.1");
    },
  });
  return {
    link,
    asked,
    [Symbol.asyncDispose]: async () => {
      link[Symbol.dispose]();
      agent.closeAllConnections();
      agent.close();
      direct.close();
    },
  };
}

function deadline(): Deadline {
  return Deadline.after(5_000, "connecting");
}

const isClosed = (error: unknown): boolean =>
  TorporError.is(error) && error.code === "guest.portClosed";

test("connect() goes straight to a port that is open to the host", async () => {
  await using guest = await startGuest([80]);
  const socket = await guest.link.connect(80, deadline());
  assert.equal(String((await once(socket, "data"))[0]), "direct");
  assert.deepEqual(guest.asked, []);
});

test("connect() reaches what listens on the guest's loopback through the agent", async () => {
  await using guest = await startGuest();
  const socket = await guest.link.connect(localPort, deadline());
  assert.equal(String((await once(socket, "data"))[0]), "hello");
  assert.deepEqual(guest.asked, [`localhost:${localPort} key`]);
  const closed = once(socket, "close");
  guest.link[Symbol.dispose]();
  await closed;
});

test("connect() tells a port that nobody listens on", async () => {
  await using guest = await startGuest();
  await assert.rejects(guest.link.connect(81, deadline()), isClosed);
  await assert.rejects(guest.link.connect(99, deadline()), isClosed, "no way but the agent");
  assert.deepEqual(guest.asked, ["localhost:81 key", "localhost:99 key"]);
  while (guest.link.openConnections > 0) await setImmediate();
});

test("connect() fails when this run of the guest is over", async () => {
  await using guest = await startGuest();
  guest.link[Symbol.dispose]();
  await assert.rejects(guest.link.connect(80, deadline()), /is over/);
});

test("dial() lets no part of a request wait for an acknowledgement of the one before", async () => {
  let noDelay = false;
  const socket = new Socket();
  socket.setNoDelay = (wanted = true) => {
    noDelay = wanted;
    return socket;
  };
  using link = new GuestLink({ hostKey: "key", dial: () => socket });
  link.dial(agentPort);
  assert.ok(noDelay);
});

/** An agent that answers each question so much later, and all others as the last, with a clock that counts the questions. */
async function startClock(
  lateMs: readonly number[],
  header = monotonicHeader,
): Promise<{
  readonly link: GuestLink;
  asked(): number;
  [Symbol.asyncDispose](): Promise<void>;
}> {
  let asked = 0;
  const agent = createServer((_, response) => {
    response.writeHead(204, { [header]: `${1_000 + asked}.4` });
    setTimeout(() => response.end(), lateMs[asked] ?? lateMs.at(-1));
    asked += 1;
  });
  agent.listen(0, "127.0.0.1");
  await once(agent, "listening");
  const { port } = agent.address() as AddressInfo;
  const link = new GuestLink({ hostKey: "key", dial: () => connect(port, "127.0.0.1") });
  return {
    link,
    asked: () => asked,
    [Symbol.asyncDispose]: async () => {
      link[Symbol.dispose]();
      agent.closeAllConnections();
      agent.close();
    },
  };
}

test("readClock() asks on while no answer is close enough, but not forever", async () => {
  await using busy = await startClock([...Array<number>(6).fill(150), 15]);
  const { timestampMonoMs } = await busy.link.readClock(deadline());
  assert.ok(timestampMonoMs !== undefined && timestampMonoMs >= 1_006);
  await using hopeless = await startClock([100]);
  await hopeless.link.readClock(deadline());
  assert.equal(hopeless.asked(), 20);
});

test("readClock() takes the answer that came soonest", async () => {
  await using clock = await startClock([600, 30, 600, 600]);
  const fromMs = Date.now();
  const { timestampMs, timestampMonoMs } = await clock.link.readClock(deadline());
  assert.ok(clock.asked() >= 4);
  assert.equal(timestampMonoMs, 1_001);
  assert.ok(timestampMs >= fromMs + 600 && timestampMs <= Date.now() - 1_200);
});

test("readClock() says what the time is where an agent tells no clock", async () => {
  await using clock = await startClock([300, 300, 300, 300], "unknown");
  const fromMs = Date.now();
  const { timestampMs, timestampMonoMs } = await clock.link.readClock(deadline());
  assert.equal(clock.asked(), 1);
  assert.equal(timestampMonoMs, undefined);
  assert.ok(timestampMs >= fromMs + 300);
});
