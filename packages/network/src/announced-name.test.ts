import assert from "node:assert/strict";
import { once } from "node:events";
import { type Socket, connect as connectTcp, createServer } from "node:net";
import { test } from "node:test";
import { connect } from "node:tls";
import type { AddressInfo } from "node:net";
import { httpHost, tlsServerName } from "./announced-name.ts";

/** The first bytes that a TLS client sends. */
async function clientHello(servername: string): Promise<Buffer> {
  await using server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const client = connect({ socket: connectTcp(port, "127.0.0.1"), servername });
  client.on("error", () => undefined);
  const [line] = (await once(server, "connection")) as [Socket];
  const [hello] = (await once(line, "data")) as [Buffer];
  client.destroy();
  line.destroy();
  return hello;
}

/** Splits the same handshake message into records of this many bytes. */
function inRecords(hello: Buffer, bytes: number): Buffer {
  const parts: Buffer[] = [];
  for (let at = 5; at < hello.length; at += bytes) {
    const part = hello.subarray(at, at + bytes);
    parts.push(Buffer.from([22, 3, 1, part.length >> 8, part.length & 255]), part);
  }
  return Buffer.concat(parts);
}

test("tlsServerName() finds the name, in one record or in many", async () => {
  const hello = await clientHello("Sub.Example.com");
  assert.equal(tlsServerName(hello), "sub.example.com");
  assert.equal(tlsServerName(inRecords(hello, 7)), "sub.example.com");
});

test("tlsServerName() waits for the rest of a ClientHello, at every byte of it", async () => {
  const hello = await clientHello("example.com");
  for (let length = 0; length < hello.length; length += 1) {
    assert.equal(tlsServerName(hello.subarray(0, length)), undefined, `${length} bytes`);
  }
});

test("tlsServerName() of anything else is none, and never fails", async () => {
  assert.equal(tlsServerName(Buffer.from("GET / HTTP/1.1\r\n")), null);
  assert.equal(tlsServerName(await clientHello("")), null, "no name");
  const hello = await clientHello("example.com");
  for (let at = 0; at < hello.length; at += 1) {
    for (const byte of [0, 1, 127, 255]) {
      const changed = Buffer.from(hello);
      changed[at] = byte;
      tlsServerName(changed);
    }
  }
});

const requests: readonly (readonly [string, string | null | undefined])[] = [
  ["GET / HTTP/1.1\r\nHost: Example.com\r\n\r\n", "example.com"],
  ["GET / HTTP/1.1\r\nA: b\r\nhost:example.com:8080\r\n\r\nbody", "example.com"],
  ["GET / HTTP/1.1\r\nHost: exam", undefined],
  ["GE", undefined],
  ["GET / HTTP/1.1\r\n\r\n", null],
  ["GET / HTTP/1.1\r\nHost: a.com\r\nHost: b.com\r\n\r\n", null],
  ["GET / HTTP/1.1\r\nHost: a.com b.com\r\n\r\n", null],
  ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", null],
  ["\x16\x03\x01", null],
];

for (const [request, expected] of requests) {
  test(`httpHost() of ${JSON.stringify(request)} is ${String(expected)}`, () => {
    assert.equal(httpHost(Buffer.from(request, "latin1")), expected);
  });
}
