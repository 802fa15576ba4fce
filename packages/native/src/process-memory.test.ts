import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import koffi from "koffi";
import { mapTouched, readMemory } from "./memory-mapping.ts";
import { readProcessMemory, writeProcessMemory } from "./process-memory.ts";

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

test("ranges short and long are read one behind the other", async () => {
  const source = randomBytes(10 * 1024 * 1024 + 1);
  const start = Number(koffi.address(source));
  const short = Array.from({ length: 3000 }, (_, index) => ({
    address: start + index * 2 * pieceBytes,
    lengthBytes: pieceBytes,
  }));
  const ranges = [...short, { address: start, lengthBytes: source.length }, ...short];
  const wanted = Buffer.concat(
    ranges.map(({ address, lengthBytes }) =>
      source.subarray(address - start, address - start + lengthBytes),
    ),
  );
  using room = await mapTouched(wanted.length);
  await readProcessMemory(process.pid, ranges, room.address);
  const read = Buffer.alloc(wanted.length);
  readMemory(room.address, read);
  assert.ok(read.equals(wanted));
  const nowhere = [...ranges, { address: 4096, lengthBytes: pieceBytes }];
  using more = await mapTouched(wanted.length + pieceBytes);
  await assert.rejects(readProcessMemory(process.pid, nowhere, more.address), { code: "EFAULT" });
});

test("memory that cannot be had is an error", async () => {
  await assert.rejects(mapTouched(2 ** 47), { code: "ENOMEM", syscall: "mmap" });
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
  // A failing call may have written a part.
  assert.ok(target.equals(bytes) || target.equals(Buffer.alloc(pieceBytes)));
});
