import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectEnvelopes, endOfStream } from "./connect-envelopes.ts";

function envelope(flags: number, payload: string): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt8(flags, 0);
  head.writeUInt32BE(Buffer.byteLength(payload), 1);
  return Buffer.concat([head, Buffer.from(payload)]);
}

test("a stream may end between envelopes only, however its bytes are cut", () => {
  const messages = [envelope(0, '{"a":1}'), envelope(1, ""), envelope(0, "x".repeat(300))];
  const bytes = Buffer.concat(messages);
  const boundaries = new Set([0]);
  let length = 0;
  for (const message of messages) boundaries.add((length += message.length));
  for (const chunkBytes of [1, 2, 3, 7, bytes.length]) {
    const envelopes = new ConnectEnvelopes();
    for (let at = 0; at < bytes.length; at += chunkBytes) {
      assert.equal(envelopes.mayEnd, boundaries.has(at), `${chunkBytes}: at ${at}`);
      envelopes.push(bytes.subarray(at, at + chunkBytes));
    }
    assert.ok(envelopes.mayEnd);
  }
});

test("nothing is put behind the last envelope", () => {
  const envelopes = new ConnectEnvelopes();
  envelopes.push(envelope(2, "{}"));
  assert.ok(!envelopes.mayEnd);
});

test("endOfStream() is an envelope itself", () => {
  const bytes = endOfStream("unavailable", "The sandbox was paused");
  assert.equal(bytes.readUInt8(0), 2);
  assert.equal(bytes.readUInt32BE(1), bytes.length - 5);
  assert.deepEqual(JSON.parse(bytes.subarray(5).toString()), {
    error: { code: "unavailable", message: "The sandbox was paused" },
  });
});
