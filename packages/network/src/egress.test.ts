/**
 * The way out of a namespace, over a whole kernel: the "guest" is a socket inside the namespace, and the
 * internet a few servers on the loopback.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createSocket } from "node:dgram";
import { Socket } from "node:net";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import {
  NetworkNamespace,
  bringUp,
  openBoundSocket,
  openTcpSocket,
  routeEverythingHere,
} from "@torpor/native";
import { systemCode } from "@torpor/std";
import { FakeInternet } from "@torpor/testing";
import { range } from "./address-range.ts";
import { Egress } from "./egress.ts";
import { parseNetworkPolicy } from "./network-policy.ts";
import { PassageBudget } from "./passage-budget.ts";

const gateway = "127.0.0.2";
const host = "203.0.113.7";
const own = "198.51.100.9";
const asRoot = { skip: process.getuid?.() === 0 ? false : "needs root" };

class Guest implements AsyncDisposable {
  readonly internet = new FakeInternet([own]);
  readonly namespace = NetworkNamespace.create();
  readonly egress: Egress;

  constructor(budget?: PassageBudget) {
    this.namespace.enter(() => {
      bringUp("lo", "127.0.0.1", 8);
      routeEverythingHere();
    });
    this.egress = new Egress(this.namespace, gateway, this.internet, budget);
  }

  static async withHosts(t: TestContext, budget?: PassageBudget): Promise<Guest> {
    const guest = new Guest(budget);
    t.after(() => guest[Symbol.asyncDispose]());
    for (const [address, port] of [
      [host, 7],
      [host, 80],
      [host, 443],
      [own, 7],
    ] as const) {
      await guest.internet.addHost(address, port, (socket) => void socket.pipe(socket));
    }
    return guest;
  }

  connect(address: string, port: number): Socket {
    const socket = new Socket({ fd: this.namespace.enter(openTcpSocket), allowHalfOpen: true });
    return socket.connect(port, address);
  }

  /** The server's response to this text, or the code of the failure. */
  async say(address: string, port: number, words: string | Buffer): Promise<string> {
    const socket = this.connect(address, port);
    try {
      await once(socket, "connect");
      socket.end(words);
      let text = "";
      for await (const part of socket) text += String(part);
      return text;
    } catch (error) {
      return systemCode(error) ?? String(error);
    }
  }

  /** The answer to one DNS question, in full. */
  async ask(question: Buffer): Promise<Buffer> {
    await using socket = createSocket("udp4");
    socket.bind({ fd: this.namespace.enter(() => openBoundSocket("udp", "127.0.0.1", 0)) });
    socket.send(question, 53, gateway);
    const [answer] = (await once(socket, "message", { signal: AbortSignal.timeout(5_000) })) as [
      Buffer,
    ];
    return answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.egress[Symbol.dispose]();
    this.namespace[Symbol.dispose]();
    await this.internet[Symbol.asyncDispose]();
  }
}

function newQuestion(name: string, type = 1): Buffer {
  const labels = name
    .split(".")
    .flatMap((label) => [Buffer.from([label.length]), Buffer.from(label)]);
  const header = Buffer.from("123401000001000000000000", "hex");
  return Buffer.concat([header, ...labels, Buffer.from([0, 0, type, 0, 1])]);
}

test("nothing passes before there is a policy", asRoot, async (t) => {
  const guest = await Guest.withHosts(t);
  assert.equal(await guest.say(host, 7, "hello"), "ECONNREFUSED");
  assert.deepEqual(guest.internet.asked, []);
});

test("what the policy allows is carried both ways, to its end", asRoot, async (t) => {
  const guest = await Guest.withHosts(t);
  guest.egress.setPolicy(parseNetworkPolicy({}));
  assert.equal(await guest.say(host, 7, "hello"), "hello");
  const large = Buffer.alloc(8 << 20, "large").toString();
  assert.ok((await guest.say(host, 7, large)) === large, "8 MiB, with backpressure");
});

test("what it denies is refused before anybody outside hears of it", asRoot, async (t) => {
  const guest = await Guest.withHosts(t);
  guest.egress.setPolicy(parseNetworkPolicy({ denyOut: [host] }));
  for (const address of [host, "10.0.0.1", "169.254.169.254", "192.168.0.1", "100.64.0.1"]) {
    assert.equal(await guest.say(address, 7, "hello"), "ECONNREFUSED", address);
  }
  assert.deepEqual(guest.internet.asked, []);
});

test("the host's own addresses are out of reach", asRoot, async (t) => {
  const guest = await Guest.withHosts(t);
  guest.egress.setPolicy(parseNetworkPolicy({ allowOut: [own] }));
  assert.equal(await guest.say(own, 7, "hello"), "ECONNRESET");
  assert.deepEqual(guest.internet.asked, []);
});

test(
  "the networks that the host is on are out of reach, public ones too, from when they are its own",
  asRoot,
  async (t) => {
    const guest = await Guest.withHosts(t);
    guest.egress.setPolicy(parseNetworkPolicy({ allowOut: [host] }));
    guest.internet.addName("neighbour.example", "203.0.113.9", "198.51.100.200");
    const open = guest.connect(host, 7);
    open.write("hello");
    await once(open, "data");
    const reset = once(open, "error");
    guest.internet.near = [range("203.0.113.0/24")];
    assert.equal(await guest.say(host, 7, "hello"), "ECONNRESET");
    const answer = await guest.ask(newQuestion("neighbour.example"));
    assert.deepEqual([answer.readUInt16BE(6), ...answer.subarray(-4)], [1, 198, 51, 100, 200]);
    assert.equal(systemCode(((await reset) as [Error])[0]), "ECONNRESET", "an open one ends");
    assert.equal(guest.internet.asked.length, 1);
    guest.internet.near = [];
    assert.equal(await guest.say(host, 7, "again"), "again");
  },
);

test("an allowed name does not lead to a network of the host's", asRoot, async (t) => {
  const guest = await Guest.withHosts(t);
  guest.internet.near = [range("203.0.113.0/24")];
  guest.internet.addName("example.com", host);
  guest.egress.setPolicy(parseNetworkPolicy({ allowOut: ["example.com"], denyOut: ["0.0.0.0/0"] }));
  const request = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
  assert.equal(await guest.say("192.0.2.66", 80, request), "ECONNRESET");
  assert.deepEqual(guest.internet.asked, []);
});

test("nothing is reached while the host cannot tell its networks", asRoot, async (t) => {
  const guest = await Guest.withHosts(t);
  guest.egress.setPolicy(parseNetworkPolicy({}));
  t.mock.method(guest.internet, "nearRanges", () => {
    throw new Error("the kernel does not answer");
  });
  assert.equal(await guest.say(host, 7, "hello"), "ECONNRESET");
  assert.deepEqual(guest.internet.asked, []);
});

test("a host that refuses resets the guest's connection", asRoot, async (t) => {
  const guest = await Guest.withHosts(t);
  guest.egress.setPolicy(parseNetworkPolicy({}));
  assert.equal(await guest.say(host, 8, "hello"), "ECONNRESET");
});

test("a change of policy counts at once, for open connections too", asRoot, async (t) => {
  const guest = await Guest.withHosts(t);
  guest.egress.setPolicy(parseNetworkPolicy({}));
  const open = guest.connect(host, 7);
  open.write("hello");
  assert.equal(String(((await once(open, "data")) as [Buffer])[0]), "hello");
  const reset = once(open, "error");
  guest.egress.setPolicy(parseNetworkPolicy({ allowInternetAccess: false }));
  assert.equal(systemCode(((await reset) as [Error])[0]), "ECONNRESET");
  assert.equal(await guest.say(host, 7, "hello"), "ECONNREFUSED");
  guest.egress.setPolicy(parseNetworkPolicy({ allowInternetAccess: false, allowOut: [host] }));
  assert.equal(await guest.say(host, 7, "again"), "again");
});

test(
  "the end of the daemon's part resets what is open, and refuses the rest",
  asRoot,
  async (t) => {
    const guest = await Guest.withHosts(t);
    guest.egress.setPolicy(parseNetworkPolicy({}));
    const open = guest.connect(host, 7);
    open.write("hello");
    await once(open, "data");
    const reset = once(open, "error");
    guest.egress[Symbol.dispose]();
    assert.equal(systemCode(((await reset) as [Error])[0]), "ECONNRESET");
    assert.equal(await guest.say(host, 7, "hello"), "ECONNREFUSED");
    using next = new Egress(guest.namespace, gateway, guest.internet);
    next.setPolicy(parseNetworkPolicy({}));
    assert.equal(await guest.say(host, 7, "hello"), "hello", "another daemon takes over");
  },
);

test(
  "a guest that holds too many connections gets no more, until it lets go",
  asRoot,
  async (t) => {
    const guest = await Guest.withHosts(t);
    guest.egress.setPolicy(parseNetworkPolicy({}));
    const sockets = Array.from({ length: 600 }, () => guest.connect(host, 7));
    const outcomes = await Promise.all(
      sockets.map(async (socket) => {
        socket.write("hello");
        return await once(socket, "data").then(
          () => "carried",
          (error: unknown) => systemCode(error) ?? String(error),
        );
      }),
    );
    const carried = outcomes.filter((one) => one === "carried").length;
    assert.ok(carried > 0 && carried <= 512, `${carried} at once`);
    const others = new Set(outcomes.filter((one) => one !== "carried"));
    assert.deepEqual([...others.difference(new Set(["ECONNREFUSED", "ECONNRESET"]))], []);
    for (const socket of sockets) socket.on("error", () => undefined).destroy();
    while ((await guest.say(host, 7, "hello")) !== "hello") await sleep(100);
  },
);

test("connections of all sandboxes together are bounded, and given back", asRoot, async (t) => {
  const budget = new PassageBudget(20);
  const guests = [await Guest.withHosts(t, budget), await Guest.withHosts(t, budget)] as const;
  for (const { egress } of guests) egress.setPolicy(parseNetworkPolicy({}));
  const carried = async (guest: Guest, count: number): Promise<Socket[]> => {
    const sockets = Array.from({ length: count }, () => guest.connect(host, 7));
    const answers = sockets.map(async (socket) => {
      socket.on("error", () => undefined).write("hello");
      return await once(socket, "data").then(
        () => [socket],
        () => [],
      );
    });
    return (await Promise.all(answers)).flat();
  };
  const first = await carried(guests[0], 30);
  assert.equal(first.length, 16);
  assert.equal((await carried(guests[1], 30)).length, 4);
  for (const socket of first) socket.destroy();
  while ((await guests[1].say(host, 7, "hello")) !== "hello") await sleep(100);
});

test("names are resolved, and never to an address out of reach", asRoot, async (t) => {
  const guest = await Guest.withHosts(t);
  guest.internet.addName("example.com", host, "10.0.0.1", "127.0.0.1", "169.254.169.254");
  guest.egress.setPolicy(parseNetworkPolicy({}));
  const answer = await guest.ask(newQuestion("example.com"));
  assert.equal(answer.readUInt16BE(2), 0x8180, "an answer without an error");
  assert.equal(answer.readUInt16BE(6), 1, "one address");
  assert.deepEqual([...answer.subarray(-4)], [203, 0, 113, 7]);
  assert.equal(answer.readUInt32BE(answer.length - 10), 60, "not for longer than a minute");
  const ipv6 = await guest.ask(newQuestion("example.com", 28));
  assert.deepEqual([ipv6.readUInt16BE(2) & 15, ipv6.readUInt16BE(6)], [0, 0]);
  assert.equal((await guest.ask(newQuestion("missing.example"))).readUInt16BE(2) & 15, 3);
  assert.equal((await guest.ask(newQuestion("example.com", 16))).readUInt16BE(2) & 15, 4);
});

test(
  "a closed sandbox resolves nothing, so that no question carries data out",
  asRoot,
  async (t) => {
    const guest = await Guest.withHosts(t);
    guest.internet.addName("example.com", host);
    assert.equal((await guest.ask(newQuestion("example.com"))).readUInt16BE(2) & 15, 5);
    assert.deepEqual(guest.internet.resolved, []);
  },
);

test(
  "an allowed name leads to where it resolves, whatever address was dialled",
  asRoot,
  async (t) => {
    const guest = await Guest.withHosts(t);
    guest.internet.addName("example.com", "10.0.0.1", host);
    guest.egress.setPolicy(
      parseNetworkPolicy({ allowOut: ["example.com"], denyOut: ["0.0.0.0/0"] }),
    );
    const request = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
    assert.equal(await guest.say("192.0.2.66", 80, request), request);
    assert.deepEqual(guest.internet.asked, [{ address: host, port: 80 }]);
  },
);

test("another name, no name, and silence are reset", asRoot, async (t) => {
  const guest = await Guest.withHosts(t);
  guest.internet.addName("example.com", host);
  guest.internet.addName("evil.example", host);
  guest.egress.setPolicy(parseNetworkPolicy({ allowOut: ["example.com"], denyOut: ["0.0.0.0/0"] }));
  for (const words of [
    "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: example.com\r\nHost: evil.example\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "SSH-2.0-OpenSSH\r\n",
    "",
  ]) {
    assert.equal(await guest.say(host, 80, words), "ECONNRESET", words);
  }
  assert.equal(await guest.say(host, 22, ""), "ECONNREFUSED");
  assert.deepEqual(guest.internet.asked, []);
  assert.deepEqual(guest.internet.resolved, []);
});

test("a policy is taken while signals come in", asRoot, async (t) => {
  const guest = await Guest.withHosts(t);
  const onSignal = (): void => undefined;
  process.on("SIGWINCH", onSignal);
  t.after(() => process.off("SIGWINCH", onSignal));
  // Signals interrupt the kernel while it verifies the program made from a policy.
  const sender = spawn("sh", ["-c", `while kill -WINCH ${process.pid}; do sleep 0.001; done`]);
  t.after(async () => {
    const ended = once(sender, "exit");
    sender.kill("SIGKILL");
    await ended;
  });
  await once(process, "SIGWINCH");
  const denyOut = Array.from({ length: 200 }, (_, index) => `203.0.113.${index}/32`);
  for (let times = 0; times < 200; times += 1) {
    guest.egress.setPolicy(parseNetworkPolicy({ denyOut }));
  }
});
