/**
 * Whatever clients and guests send, the daemon stays, answers each as it should, and mixes nothing up. Each
 * row of the tables is a case; after each the daemon is asked whether it is the same process, and the
 * sandbox beside whether it is served as ever.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, type Socket, connect, createServer } from "node:net";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { brokenOff, clientCases, fill } from "./client-cases.ts";
import { askHttp2, describeAnswer, receive, statusesIn } from "./clients.ts";
import { guestCases } from "./guest-cases.ts";
import { http2Bytes, http2Cases, http2GuestBytes, http2GuestCases } from "./http2-cases.ts";
import { sayHi } from "./raw-guest.ts";
import type { ReadRequest } from "./request-reader.ts";
import { type Rig, type Transport, startRig } from "./rig.ts";

let rig: Rig;
before(async () => {
  rig = await startRig();
});
after(async () => {
  await rig[Symbol.asyncDispose]();
});

const pieceBytes = 16_384;
const transports: readonly Transport[] = ["plain", "tls"];

function inWords({ method, target, body }: ReadRequest): string {
  return `${method} ${target} ${body}`;
}

async function playClient(
  transport: Transport,
  text: string,
  wanted: readonly string[],
): Promise<void> {
  const socket = await rig.open(transport);
  socket.write(text, "latin1");
  const isCut = wanted.at(-1) === "cut";
  const count = wanted.length;
  const { text: seen, isClosed } = await receive(
    socket,
    (so) => !isCut && statusesIn(so).length >= count,
  );
  await sleep(5); // for what comes too much
  socket.destroy();
  const answers = [...statusesIn(seen), ...(isCut && isClosed ? ["cut"] : [])];
  assert.match(answers.join(" "), new RegExp(`^${wanted.join(" ")}$`));
}

for (const transport of transports) {
  for (const { name, text, answers, seen } of clientCases) {
    test(`a client sends ${name}, ${transport}`, async () => {
      rig.guest.respond = sayHi;
      rig.guest.forget();
      const filled = (one: string): string => fill(one, rig.host, rig.hostileId);
      await playClient(transport, filled(text), answers);
      assert.deepEqual(rig.guest.requests.map(inWords).sort(), seen.map(filled).sort());
      assert.deepEqual(rig.guest.faults, [], "nothing but requests");
      await rig.checkAlive();
    });
  }
}

test("clients go away in the middle of everything", async () => {
  rig.guest.respond = () => undefined;
  for (const transport of transports) {
    for (const text of brokenOff) {
      for (const isReset of [true, false]) {
        const socket = await rig.open(transport);
        socket.write(fill(text, rig.host, rig.hostileId), "latin1");
        await sleep(5);
        if (isReset && transport === "plain") socket.resetAndDestroy();
        else socket.destroy();
      }
    }
    await rig.checkAlive();
  }
  rig.guest.forget();
});

for (const name of Object.keys(http2Cases)) {
  test(`a client of HTTP/2 sends ${name}`, async () => {
    rig.guest.respond = sayHi;
    rig.guest.forget();
    for (const transport of transports) {
      const socket = await rig.open(transport, ["h2"]);
      socket.resume();
      const bytes = http2Bytes(name, rig.host);
      for (let at = 0; at < bytes.length; at += pieceBytes) {
        if (!socket.destroyed) socket.write(bytes.subarray(at, at + pieceBytes));
      }
      await sleep(20);
      socket.destroy();
    }
    const known = new Set(["POST /a ", "POST /a hi", "GET /a "]);
    assert.deepEqual(
      rig.guest.requests.map(inWords).filter((one) => !known.has(one)),
      [],
    );
    assert.deepEqual(rig.guest.faults, []);
    if (name === "a sound request") assert.equal(rig.guest.requests.length, transports.length);
    await rig.checkAlive();
  });
}

for (const name of Object.keys(http2GuestCases)) {
  test(`a guest of HTTP/2 answers with ${name}`, async () => {
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      sockets.add(socket);
      socket.on("error", () => socket.destroy());
      socket.write(http2GuestBytes("nothing more"));
      // Behind the client's preface and settings comes its request.
      socket.once("data", () => {
        setTimeout(() => socket.destroyed || socket.write(http2GuestBytes(name).subarray(18)), 5);
        setTimeout(() => socket.destroy(), 50);
      });
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const session = rig.openHttp2((server.address() as AddressInfo).port);
    const grpc = { ":method": "POST", "content-type": "application/grpc" };
    const seen = await askHttp2(session, "/x", grpc);
    if (name === "a sound answer") assert.equal(seen, "200 hi");
    if (name === "interim answers without end") assert.equal(seen, "502");
    assert.match(seen, /^(?:200|502|cut)/);
    session.destroy();
    for (const socket of sockets) socket.destroy();
    server.close();
    await rig.checkAlive();
  });
}

test("whatever passes behind an upgrade, either side may end it anywhere", async () => {
  const agreed = "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
  for (const transport of transports) {
    for (const frames of [
      "",
      "\x81\x05hello",
      "\x81\x7f\xff",
      "\x88\x02\x03\xe8",
      "\0".repeat(70_000),
    ]) {
      for (const ends of ["client", "guest"]) {
        rig.guest.forget();
        rig.guest.respond = (socket) => {
          socket.write(agreed + frames, "latin1");
          if (ends === "guest") setTimeout(() => socket.resetAndDestroy(), 2);
        };
        const socket = await rig.open(transport);
        socket.resume();
        socket.write(
          `GET /a HTTP/1.1\r\nHost: ${rig.host}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n${frames}`,
          "latin1",
        );
        await sleep(10);
        socket.destroy();
      }
    }
    await rig.checkAlive();
  }
});

test("what is no TLS comes to the port of TLS", async () => {
  for (const text of [
    "",
    "GET / HTTP/1.1\r\n\r\n",
    "PRI * HTTP/2.0\r\n",
    "\x16\x03\x01\xff\xff\x01",
    "\x16\x03\x01\0\x05\x01\0\0\x01\0",
  ]) {
    for (const isReset of [true, false]) {
      const socket = connect(rig.ports.tls, "127.0.0.1");
      socket.on("error", () => socket.destroy());
      await once(socket, "connect");
      socket.resume();
      socket.write(text, "latin1");
      await sleep(5);
      if (isReset) socket.resetAndDestroy();
      else socket.destroy();
    }
  }
  await rig.checkAlive();
});

test("a preface of HTTP/2 that comes byte by byte, or stops, is no other's affair", async () => {
  for (const transport of transports) {
    const bytes = http2Bytes("a sound request", rig.host);
    rig.guest.respond = sayHi;
    rig.guest.forget();
    const whole = await rig.open(transport, ["h2"]);
    whole.resume();
    for (const byte of bytes) {
      whole.write(Buffer.from([byte]));
      await sleep(0);
    }
    await sleep(20);
    assert.ok(rig.guest.requests.length > 0);
    whole.destroy();
    for (const length of [1, 3, 10, 23, 24, 30]) {
      const part = await rig.open(transport, ["h2"]);
      part.write(bytes.subarray(0, length));
      await sleep(1);
      part.destroy();
    }
    const almost = await rig.open(transport);
    almost.write(`PRI * HTTP/1.1\r\nHost: ${rig.host}\r\n\r\n`);
    assert.match(
      (await receive(almost, (text) => text.includes("\r\n\r\n"))).text,
      /^HTTP\/1\.1 400/,
    );
    almost.destroy();
    await rig.checkAlive();
  }
});

for (const { name, answer, http1, http2 = http1, upgrade } of guestCases) {
  test(`a guest answers with ${name}`, async () => {
    rig.guest.forget();
    rig.guest.respond = (socket) => socket.end(answer, "latin1");
    const session = rig.openHttp2();
    assert.match(await askHttp2(session, "/by-2"), new RegExp(`^(?:${http2})$`));
    session.destroy();
    for (const transport of transports) {
      for (const more of ["", "Connection: upgrade\r\nUpgrade: websocket\r\n"]) {
        const socket = await rig.open(transport);
        const close = more === "" ? "Connection: close\r\n" : "";
        socket.write(`GET /a HTTP/1.1\r\nHost: ${rig.host}\r\n${close}${more}\r\n`);
        const { text } = await receive(socket, () => false);
        socket.destroy();
        const wanted = more === "" ? http1 : (upgrade ?? http1);
        assert.match(describeAnswer(text), new RegExp(`^(?:${wanted})$`));
      }
    }
    await rig.checkAlive();
  });
}

test("an answer of each kind leaves nothing behind for the next client", async () => {
  for (const { name, answer } of guestCases) {
    rig.guest.forget();
    let answered = 0;
    rig.guest.respond = (socket, request) => {
      answered += 1;
      if (answered > 1) sayHi(socket, request);
      else socket.write(answer, "latin1");
    };
    const first = await rig.open("plain");
    first.write(`GET /first HTTP/1.1\r\nHost: ${rig.host}\r\n\r\n`);
    first.resume();
    await sleep(10); // some of the answers never end
    const second = await rig.open("plain");
    second.write(`GET /second HTTP/1.1\r\nHost: ${rig.host}\r\nConnection: close\r\n\r\n`);
    const { text } = await receive(second, () => false);
    assert.equal(describeAnswer(text), "200 hi /second", name);
    first.destroy();
    second.destroy();
  }
  await rig.checkAlive();
});
