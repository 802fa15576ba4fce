import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import koffi from "koffi";
import { writeProcessMemory } from "./process-memory.ts";

const pieceBytes = 64;

test("more pieces than one call takes come to where they belong", async () => {
  const target = Buffer.alloc(3000 * 2 * pieceBytes);
  const start = Number(koffi.address(target));
  const pieces = Array.from({ length: 3000 }, (_, index) => ({
    address: start + index * 2 * pieceBytes,
    bytes: randomBytes(pieceBytes),
  }));
  await writeProcessMemory(process.pid, pieces);
  for (const [index, { bytes }] of pieces.entries()) {
    const at = index * 2 * pieceBytes;
    assert.ok(target.subarray(at, at + pieceBytes).equals(bytes), `piece ${index}`);
    const beside = target.subarray(at + pieceBytes, at + 2 * pieceBytes);
    assert.ok(beside.equals(Buffer.alloc(pieceBytes)), `what is beside piece ${index}`);
  }
});

test("memory that is not there, and a process that is not there, are errors", async () => {
  const bytes = randomBytes(pieceBytes);
  const target = Buffer.alloc(pieceBytes);
  const good = { address: Number(koffi.address(target)), bytes };
  await assert.rejects(writeProcessMemory(process.pid, [{ address: 4096, bytes }]), {
    code: "EFAULT",
  });
  await assert.rejects(writeProcessMemory(process.pid, [good, { address: 4096, bytes }]), {
    code: "EFAULT",
  });
  // Larger than any pid that Linux gives.
  await assert.rejects(writeProcessMemory(2 ** 22 + 1, [good]), { code: "ESRCH" });
  // Some of a call that fails may have been written.
  assert.ok(target.equals(bytes) || target.equals(Buffer.alloc(pieceBytes)));
});
