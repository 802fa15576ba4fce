import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempDisposable, open, readFile, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import { type ChunkDigest, digestChunks, verifyChunks } from "./chunk-digest.ts";

const chunkBytes = 1 << 20;

async function withFile(content: Buffer, work: (path: string) => Promise<void>): Promise<void> {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-chunks-"));
  const path = join(folder.path, "layer");
  await writeFile(path, content);
  await work(path);
}

function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}

async function refuses(path: string, digest: ChunkDigest, words: string): Promise<void> {
  await assert.rejects(verifyChunks(path, digest), (error) => {
    assert.ok(TorporError.is(error) && error.code === "snapshot.corrupt", String(error));
    assert.ok(error.rawMessage.includes(path), error.rawMessage);
    assert.ok(error.rawMessage.includes(words), error.rawMessage);
    return true;
  });
}

async function flipBit(path: string, atByte: number): Promise<void> {
  const content = await readFile(path);
  content.writeUInt8(content.readUInt8(atByte) ^ 1, atByte);
  await writeFile(path, content);
}

test("a file of any length has a checksum for each MiB, and passes them", async () => {
  for (const bytes of [0, 1, chunkBytes - 1, chunkBytes, chunkBytes + 1, 21 * chunkBytes + 7]) {
    const content = randomBytes(bytes);
    await withFile(content, async (path) => {
      const digest = await digestChunks(path);
      const chunks = Array.from({ length: Math.ceil(bytes / chunkBytes) }, (_one, index) =>
        sha256(content.subarray(index * chunkBytes, (index + 1) * chunkBytes)),
      );
      assert.deepEqual(digest, { bytes, chunkBytes, chunkSha256: chunks });
      await verifyChunks(path, digest);
    });
  }
});

test("verifyChunks() names the first damaged chunk", async () => {
  await withFile(randomBytes(12 * chunkBytes + 100), async (path) => {
    const digest = await digestChunks(path);
    await flipBit(path, 12 * chunkBytes + 99);
    await refuses(path, digest, `at byte ${12 * chunkBytes}`);
    await flipBit(path, 3 * chunkBytes + 5);
    await refuses(path, digest, `at byte ${3 * chunkBytes}`);
    await flipBit(path, 0);
    await refuses(path, digest, "at byte 0");
  });
});

test("verifyChunks() refuses another length and a missing file", async () => {
  await withFile(randomBytes(2 * chunkBytes), async (path) => {
    const digest = await digestChunks(path);
    await truncate(path, 2 * chunkBytes + 1);
    await refuses(path, digest, `${2 * chunkBytes + 1} bytes instead of ${2 * chunkBytes}`);
    await truncate(path, 2 * chunkBytes - 1);
    await refuses(path, digest, `${2 * chunkBytes - 1} bytes`);
    await refuses(`${path}-else`, digest, "is missing");
  });
});

test("verifyChunks() refuses checksums that cannot belong to a file", async () => {
  await withFile(randomBytes(2 * chunkBytes), async (path) => {
    const digest = await digestChunks(path);
    const words = "contradict each other";
    await refuses(path, { ...digest, chunkSha256: digest.chunkSha256.slice(1) }, words);
    await refuses(path, { ...digest, chunkBytes: 0 }, words);
    await refuses(path, { ...digest, bytes: 2 ** 40, chunkBytes: 2 ** 40 }, words);
  });
});

test("a hole has the checksum of zeros, and what is written into it is found", async () => {
  await withFile(Buffer.alloc(0), async (path) => {
    await truncate(path, 40 * chunkBytes + 3);
    const digest = await digestChunks(path);
    assert.deepEqual(
      new Set(digest.chunkSha256.slice(0, 40)),
      new Set([sha256(Buffer.alloc(chunkBytes))]),
    );
    assert.equal(digest.chunkSha256[40], sha256(Buffer.alloc(3)));
    await verifyChunks(path, digest);
    {
      await using file = await open(path, "r+");
      await file.write(Buffer.of(1), 0, 1, 33 * chunkBytes + 17);
    }
    await refuses(path, digest, `at byte ${33 * chunkBytes}`);
  });
});
