import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeAnswer, messageBytesMax, parseQuestion, responseCode } from "./dns-message.ts";

/** A query for the address of "example.com", as `dig` sends it, without its extensions. */
const message = Buffer.from("abcd01000001000000000000076578616d706c6503636f6d0000010001", "hex");

test("a question is read, and answered with as many addresses as fit", () => {
  const question = parseQuestion(message);
  assert.ok(question !== undefined);
  assert.deepEqual([question.name, question.type, question.id], ["example.com", 1, 0xabcd]);
  const many = Array.from({ length: 100 }, () => ({ address: "203.0.113.7", ttlSeconds: 60 }));
  const answer = encodeAnswer(question, responseCode.ok, many);
  assert.ok(answer.length <= messageBytesMax);
  assert.equal(answer.readUInt16BE(6), 30);
});

test("what is no single question is not answered", () => {
  const wrong: Readonly<Record<string, (bytes: Buffer) => void>> = {
    "an answer": (bytes) => bytes.writeUInt16BE(0x8180, 2),
    "two questions": (bytes) => bytes.writeUInt16BE(2, 4),
    "a compressed name": (bytes) => bytes.writeUInt16BE(0xc00c, 12),
    "another class": (bytes) => bytes.writeUInt16BE(3, bytes.length - 2),
    "a name beyond the end": (bytes) => bytes.writeUInt8(63, 12),
    "a dot inside a label": (bytes) => bytes.write(".", 14),
  };
  for (const [what, change] of Object.entries(wrong)) {
    const bytes = Buffer.from(message);
    change(bytes);
    assert.equal(parseQuestion(bytes), undefined, what);
  }
  for (let length = 0; length < message.length; length += 1) {
    assert.equal(parseQuestion(message.subarray(0, length)), undefined, `${length} bytes`);
  }
  assert.equal(parseQuestion(Buffer.alloc(messageBytesMax + 1)), undefined, "too long");
});
