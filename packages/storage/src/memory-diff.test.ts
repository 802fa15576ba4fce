import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import {
  appendFile,
  mkdtempDisposable,
  open,
  readFile,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import { type ReadableMemory, applyMemoryDiff, pageBytes, writeMemoryDiff } from "./memory-diff.ts";

const pageCount = 600;

/** Memory in a buffer, as a VM shows it: content and the list of pages it has made its own. */
class BufferMemory implements ReadableMemory {
  readonly content: Buffer;
  readonly own = new Set<number>();

  constructor(content: Buffer) {
    this.content = Buffer.from(content);
  }

  get sizeBytes(): number {
    return this.content.length;
  }

  ownRanges(): { startBytes: number; endBytes: number }[] {
    const ranges: { startBytes: number; endBytes: number }[] = [];
    for (const page of [...this.own].sort((a, b) => a - b)) {
      const last = ranges.at(-1);
      if (last?.endBytes === page * pageBytes) last.endBytes += pageBytes;
      else ranges.push({ startBytes: page * pageBytes, endBytes: (page + 1) * pageBytes });
    }
    return ranges;
  }

  read(offsetBytes: number, into: Uint8Array): void {
    this.content.copy(into, 0, offsetBytes, offsetBytes + into.length);
  }

  write(offsetBytes: number, from: Uint8Array): void {
    this.content.set(from, offsetBytes);
    this.own.add(offsetBytes / pageBytes);
  }

  setPage(page: number, content: Buffer): void {
    this.write(page * pageBytes, content);
  }
}

async function withFolder(work: (folder: string) => Promise<void>): Promise<void> {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-diff-"));
  await work(folder.path);
}

/** An image whose every third page is empty. */
function randomImage(): Buffer {
  const image = randomBytes(pageCount * pageBytes);
  for (let page = 0; page < pageCount; page += 3)
    image.fill(0, page * pageBytes, (page + 1) * pageBytes);
  return image;
}

test("a page that became zero comes back as zero, not as the image's", async () => {
  await withFolder(async (folder) => {
    const image = randomImage();
    const basePath = join(folder, "base");
    await writeFile(basePath, image);
    const memory = new BufferMemory(image);
    memory.setPage(1, Buffer.alloc(pageBytes));
    const digest = await writeMemoryDiff(folder, basePath, memory);
    assert.equal(digest.zeroPages, 1);
    assert.equal(digest.dataPages, 0);
    const restored = new BufferMemory(image);
    await applyMemoryDiff(folder, digest, restored);
    assert.ok(restored.content.equals(memory.content));
  });
});

test("pages that were written but are equal to the image's are not stored", async () => {
  await withFolder(async (folder) => {
    const image = randomImage();
    const basePath = join(folder, "base");
    await writeFile(basePath, image);
    const memory = new BufferMemory(image);
    memory.setPage(0, image.subarray(0, pageBytes)); // an empty page, written empty again
    memory.setPage(1, image.subarray(pageBytes, 2 * pageBytes));
    const digest = await writeMemoryDiff(folder, basePath, memory);
    assert.deepEqual([digest.zeroPages, digest.dataPages], [0, 0]);
  });
});

test("any mix of inherited, zero and data pages survives being written and applied", async () => {
  for (let round = 0; round < 20; round += 1) {
    await withFolder(async (folder) => {
      const image = randomImage();
      const basePath = join(folder, "base");
      await writeFile(basePath, image);
      const memory = new BufferMemory(image);
      const touched = randomInt(0, pageCount);
      const changes: string[] = [];
      for (let index = 0; index < touched; index += 1) {
        const page = randomInt(0, pageCount);
        const kind = ["zero", "data", "same"][randomInt(0, 3)] ?? "same";
        const same = image.subarray(page * pageBytes, (page + 1) * pageBytes);
        const content =
          kind === "zero"
            ? Buffer.alloc(pageBytes)
            : kind === "data"
              ? randomBytes(pageBytes)
              : same;
        memory.setPage(page, Buffer.from(content));
        changes.push(`${page}:${kind}`);
      }
      const digest = await writeMemoryDiff(folder, basePath, memory);
      const restored = new BufferMemory(image);
      await applyMemoryDiff(folder, digest, restored);
      assert.ok(restored.content.equals(memory.content), changes.join(" "));
    });
  }
});

test("damage anywhere is found and named, and nothing damaged is written", async () => {
  await withFolder(async (folder) => {
    const image = randomImage();
    const basePath = join(folder, "base");
    await writeFile(basePath, image);
    const memory = new BufferMemory(image);
    for (let page = 1; page < 400; page += 1) memory.setPage(page, randomBytes(pageBytes));
    const digest = await writeMemoryDiff(folder, basePath, memory);
    for (const [name, damage] of damages(folder)) {
      const path = join(folder, name);
      const good = await readFile(path);
      await damage(path, good);
      const restored = new BufferMemory(image);
      await assert.rejects(
        applyMemoryDiff(folder, digest, restored),
        (error) =>
          TorporError.is(error) &&
          error.code === "snapshot.corrupt" &&
          error.message.includes(name),
      );
      for (const page of restored.own) {
        const bytes = (from: BufferMemory): Buffer =>
          from.content.subarray(page * pageBytes, (page + 1) * pageBytes);
        assert.ok(bytes(restored).equals(bytes(memory)), `page ${page} is damaged`);
      }
      await writeFile(path, good);
    }
  });
});

type Damage = (path: string, good: Buffer) => Promise<void>;

function damages(_folder: string): readonly (readonly [string, Damage])[] {
  const flip =
    (position: (bytes: number) => number): Damage =>
    async (path, good) => {
      const at = position(good.length);
      await using file = await open(path, "r+");
      await file.write(Buffer.of((good[at] ?? 0) ^ 1), 0, 1, at);
    };
  const names = ["memory.map", "memory.pages"] as const;
  return names.flatMap((name) => [
    [name, flip(() => 0)] as const,
    [name, flip((bytes) => bytes - 1)] as const,
    [name, flip((bytes) => Math.floor(bytes / 2))] as const,
    [name, (path: string, good: Buffer) => truncate(path, good.length - pageBytes / 2)] as const,
  ]);
}

test("a longer map than was written is refused", async () => {
  await withFolder(async (folder) => {
    const image = randomImage();
    const basePath = join(folder, "base");
    await writeFile(basePath, image);
    const digest = await writeMemoryDiff(folder, basePath, new BufferMemory(image));
    await appendFile(join(folder, "memory.map"), Buffer.alloc(12));
    await assert.rejects(applyMemoryDiff(folder, digest, new BufferMemory(image)), /memory\.map/);
  });
});
