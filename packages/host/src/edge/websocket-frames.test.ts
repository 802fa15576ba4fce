import assert from "node:assert/strict";
import { test } from "node:test";
import { WebSocketFrames, closeFrame } from "./websocket-frames.ts";

function frame(opcode: number, bytes: number, masked = false): Buffer {
  const extended = bytes > 65_535 ? 8 : bytes > 125 ? 2 : 0;
  const head = Buffer.alloc(2 + extended + (masked ? 4 : 0));
  head.writeUInt8(0x80 | opcode, 0);
  head.writeUInt8((masked ? 0x80 : 0) | (extended === 8 ? 127 : extended === 2 ? 126 : bytes), 1);
  if (extended === 2) head.writeUInt16BE(bytes, 2);
  if (extended === 8) head.writeBigUInt64BE(BigInt(bytes), 2);
  return Buffer.concat([head, Buffer.alloc(bytes, "x")]);
}

test("a Close frame may stand between frames only, however the bytes are cut", () => {
  const frames = [frame(1, 5), frame(9, 0), frame(2, 126), frame(1, 3, true), frame(2, 66_000)];
  const bytes = Buffer.concat(frames);
  const boundaries = new Set([0]);
  let length = 0;
  for (const one of frames) boundaries.add((length += one.length));
  for (const chunkBytes of [1, 3, 1000, bytes.length]) {
    const watched = new WebSocketFrames();
    for (let at = 0; at < bytes.length; at += chunkBytes) {
      assert.equal(watched.mayClose, boundaries.has(at), `${chunkBytes}: at ${at}`);
      watched.push(bytes.subarray(at, at + chunkBytes));
    }
    assert.ok(watched.mayClose);
  }
});

test("none is sent behind the guest's own", () => {
  const watched = new WebSocketFrames();
  watched.push(closeFrame(1000, "bye"));
  assert.ok(!watched.mayClose);
});
