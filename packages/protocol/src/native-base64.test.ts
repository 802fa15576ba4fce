import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { setFromBase64, toBase64 } from "./native-base64.ts";
// ORDER: after the import above, as everywhere.
import { create, fromJson, toJson } from "@bufbuild/protobuf";
import { base64Decode, base64Encode } from "@bufbuild/protobuf/wire";
import { ProcessInputSchema } from "./gen/process/process_pb.js";

const samples = [0, 1, 2, 3, 4, 5, 31, 32, 33, 255, 256, 32_768, 1_000_003].map((length) =>
  randomBytes(length),
);

/** Texts and the bytes that `@bufbuild/protobuf` has always read from them; null: refused. */
const texts: readonly (readonly [text: string, hex: string | null])[] = [
  ["", ""],
  ["AA==", "00"],
  ["AA", "00"],
  ["AAE=", "0001"],
  ["AAE", "0001"],
  ["+/+/", "fbffbf"],
  ["-_-_", "fbffbf"],
  ["-_8=", "fbff"],
  ["-_8", "fbff"],
  ["+_+/", "fbffbf"],
  [" A\tA\r\nE = \n", "0001"],
  ["AA==AAE=", "000001"],
  // Bits beyond the last byte.
  ["AB==", "00"],
  ["A", null],
  ["AAAAA", null],
  ["AA*=", null],
  ["AAé=", null],
  ["A\u0000AA", null],
];

test("bytes become the same base64 as ever", () => {
  for (const sample of samples) {
    const bytes = new Uint8Array(sample);
    assert.equal(base64Encode(bytes), sample.toString("base64"));
    assert.equal(base64Encode(bytes, "url"), sample.toString("base64url"));
    assert.equal(base64Encode(bytes, "std_raw"), sample.toString("base64").replaceAll("=", ""));
    assert.equal(toBase64.call(bytes, { alphabet: "base64url" }).length % 4, 0);
  }
});

test("every text is read as ever, or refused as ever", () => {
  for (const sample of samples) {
    const text = sample.toString("base64");
    for (const variant of [text, text.replaceAll("=", ""), sample.toString("base64url")]) {
      assert.deepEqual(Buffer.from(base64Decode(variant)), sample);
    }
  }
  for (const [text, hex] of texts) {
    const json = { stdin: text };
    if (hex === null) {
      assert.throws(() => fromJson(ProcessInputSchema, json), text);
      continue;
    }
    const { input } = fromJson(ProcessInputSchema, json);
    assert.equal(Buffer.from(input.value ?? []).toString("hex"), hex, text);
  }
});

test("a part of a larger buffer is encoded and decoded alone", () => {
  const whole = Buffer.from("--torpor--");
  const part = new Uint8Array(whole.buffer, whole.byteOffset + 2, 6);
  const input = create(ProcessInputSchema, { input: { case: "stdin", value: part } });
  assert.deepEqual(toJson(ProcessInputSchema, input), { stdin: "dG9ycG9y" });
  const target = new Uint8Array(8);
  assert.deepEqual(setFromBase64.call(target.subarray(1, 7), "dG9ycG9y"), { read: 8, written: 6 });
  assert.equal(Buffer.from(target).toString(), "\0torpor\0");
});

test("the decoder takes plain base64 only, and nothing that does not fit", () => {
  for (const text of ["-_-_", " AAE=", "AB==", "AA==AAE=", "A", "AA*="]) {
    assert.throws(() => setFromBase64.call(new Uint8Array(16), text), SyntaxError, text);
  }
  assert.throws(() => setFromBase64.call(new Uint8Array(2), "AAAA"), SyntaxError);
});
