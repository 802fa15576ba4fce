import assert from "node:assert/strict";
import { test } from "node:test";
import { Code } from "@connectrpc/connect";
import { parseBoundary, parseMultipart } from "./multipart.ts";

const body = Buffer.from(
  [
    "preamble",
    `--b1\r\nContent-Disposition: form-data; name="file"; filename="/a/b %22c\\.txt; filename*=utf-8''x"\r\nX: y\r\n`,
    "first\r\n--b\r\n--",
    "--b1  \r\ncontent-disposition: form-data; filename=plain; name=file\r\n",
    "",
    "--b1\r\nContent-Disposition: form-data; name=\"file\"; filename*=UTF-8''%C3%A4%2Fx\r\n",
    "third",
    "--b1--\r\nepilogue",
  ].join("\r\n"),
);

async function* inPieces(bytes: Buffer, size: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

test("parseMultipart() finds every part, however the body is cut into pieces", async () => {
  for (let size = 1; size <= body.length; size += 1) {
    const parts: unknown[][] = [];
    for await (const part of parseMultipart(inPieces(body, size), "b1")) {
      const chunks: Buffer[] = [];
      for await (const chunk of part.body) chunks.push(chunk);
      parts.push([part.name, part.filename, Buffer.concat(chunks).toString("utf8")]);
    }
    assert.deepEqual(parts, [
      ["file", { given: "/a/b %22c\\.txt; filename*=utf-8''x" }, "first\r\n--b\r\n--"],
      ["file", { given: "plain" }, ""],
      ["file", { decoded: "ä/x" }, "third"],
    ]);
  }
});

test("parseMultipart() skips what is not read of a part", async () => {
  const names: unknown[] = [];
  for await (const part of parseMultipart(inPieces(body, 7), "b1")) names.push(part.filename);
  assert.deepEqual(names.slice(1), [{ given: "plain" }, { decoded: "ä/x" }]);
});

test("parseMultipart() refuses headers without end, text after a boundary, and a cut body", async () => {
  const bad = [
    `--b\r\nX: ${"y".repeat(20_000)}`,
    "--bx\r\n\r\n\r\n--b--",
    "--b\r\n\r\ncontent",
    "x".repeat(40_000),
    "",
  ];
  for (const text of bad) {
    const parse = async (): Promise<void> => {
      for await (const part of parseMultipart(inPieces(Buffer.from(text), 1000), "b")) void part;
    };
    await assert.rejects(parse, { code: Code.InvalidArgument });
  }
});

test("parseBoundary() reads both forms and refuses none", () => {
  assert.equal(parseBoundary('multipart/form-data; boundary="a b"'), "a b");
  assert.equal(parseBoundary("multipart/form-data; charset=x; boundary=ab"), "ab");
  assert.throws(() => parseBoundary("multipart/form-data"), { code: Code.InvalidArgument });
});
