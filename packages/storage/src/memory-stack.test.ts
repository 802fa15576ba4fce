import assert from "node:assert/strict";
import {
  appendFile,
  mkdir,
  mkdtempDisposable,
  open,
  readFile,
  truncate,
  writeFile,
} from "node:fs/promises";
import { randomBytes } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { mapTouched } from "@torpor/native";
import { type MemoryPiece, TorporError } from "@torpor/std";
import { CapturedMemory } from "./captured-memory.ts";
import { MemoryStack, type ReadableMemory, type StackedLayer } from "./memory-stack.ts";
import { pageBytes } from "./page-map.ts";

const pageCount = 600;
const sizeBytes = pageCount * pageBytes;

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

  async write(pieces: readonly MemoryPiece[]): Promise<void> {
    for (const { offsetBytes, bytes } of pieces) this.#writeAt(offsetBytes, bytes);
    await Promise.resolve();
  }

  #writeAt(offsetBytes: number, from: Uint8Array): void {
    this.content.set(from, offsetBytes);
    const first = offsetBytes / pageBytes;
    for (let page = 0; page < from.length / pageBytes; page += 1) this.own.add(first + page);
  }

  page(page: number): Buffer {
    return this.content.subarray(page * pageBytes, (page + 1) * pageBytes);
  }

  setPage(page: number, content: Uint8Array): void {
    this.#writeAt(page * pageBytes, content);
  }
}

/** The same numbers for the same seed, so that a failure can be repeated. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** An image whose every third page is empty, in a folder for layers. */
async function withImage(
  work: (image: Buffer, imagePath: string, folder: string) => Promise<void>,
): Promise<void> {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-stack-"));
  const image = randomBytes(sizeBytes);
  for (let page = 0; page < pageCount; page += 3) {
    image.fill(0, page * pageBytes, (page + 1) * pageBytes);
  }
  const imagePath = join(folder.path, "image");
  await writeFile(imagePath, image);
  await work(image, imagePath, folder.path);
}

/** One pause: a layer of the pages that differ from `layers`, in a folder of its own. */
async function save(
  folder: string,
  imagePath: string,
  layers: readonly StackedLayer[],
  memory: ReadableMemory,
): Promise<StackedLayer> {
  const layerFolder = join(folder, `layer-${layers.length}-${randomBytes(4).toString("hex")}`);
  await mkdir(layerFolder);
  await using stack = await MemoryStack.open(layers, sizeBytes);
  const digest = await stack.writeDifference(layerFolder, imagePath, memory);
  return { folder: layerFolder, digest };
}

async function restore(image: Buffer, layers: readonly StackedLayer[]): Promise<BufferMemory> {
  const memory = new BufferMemory(image);
  await using stack = await MemoryStack.open(layers, sizeBytes);
  await stack.applyTo(memory);
  return memory;
}

test("a page that became zero comes back as zero, in every later layer too", async () => {
  await withImage(async (image, imagePath, folder) => {
    const memory = new BufferMemory(image);
    memory.setPage(1, Buffer.alloc(pageBytes));
    const first = await save(folder, imagePath, [], memory);
    assert.deepEqual([first.digest.zeroPages, first.digest.dataPages], [1, 0]);
    memory.setPage(2, randomBytes(pageBytes));
    const second = await save(folder, imagePath, [first], memory);
    assert.deepEqual([second.digest.zeroPages, second.digest.dataPages], [0, 1]);
    memory.setPage(2, Buffer.alloc(pageBytes));
    const third = await save(folder, imagePath, [first, second], memory);
    assert.deepEqual([third.digest.zeroPages, third.digest.dataPages], [1, 0]);
    const restored = await restore(image, [first, second, third]);
    assert.ok(restored.content.equals(memory.content));
  });
});

test("a page that went back to the image's is stored, and comes back so", async () => {
  await withImage(async (image, imagePath, folder) => {
    const memory = new BufferMemory(image);
    memory.setPage(4, randomBytes(pageBytes));
    memory.setPage(7, randomBytes(pageBytes));
    const first = await save(folder, imagePath, [], memory);
    memory.setPage(4, image.subarray(4 * pageBytes, 5 * pageBytes));
    // As after a discard: the page is the image's again and no longer the process's own.
    memory.setPage(7, image.subarray(7 * pageBytes, 8 * pageBytes));
    memory.own.delete(7);
    const second = await save(folder, imagePath, [first], memory);
    assert.equal(second.digest.dataPages, 2);
    assert.ok((await restore(image, [first, second])).content.equals(memory.content));
  });
});

test("a layer holds what changed since the one below, and nothing else", async () => {
  await withImage(async (image, imagePath, folder) => {
    const memory = new BufferMemory(image);
    for (let page = 0; page < 300; page += 1) memory.setPage(page, randomBytes(pageBytes));
    const first = await save(folder, imagePath, [], memory);
    assert.equal(first.digest.dataPages, 300);
    memory.setPage(5, randomBytes(pageBytes));
    memory.setPage(6, memory.page(6)); // written, and the same
    const second = await save(folder, imagePath, [first], memory);
    assert.deepEqual([second.digest.dataPages, second.digest.zeroPages], [1, 0]);
    const third = await save(folder, imagePath, [first, second], memory);
    assert.deepEqual([third.digest.dataPages, third.digest.zeroPages], [0, 0]);
  });
});

for (const seed of [1, 2, 3, 4, 5, 6, 7, 8]) {
  test(`any mix of pages survives any number of layers and folds (seed ${seed})`, async () => {
    await withImage(async (image, imagePath, folder) => {
      const random = randomNumbers(seed);
      let memory = new BufferMemory(image);
      let layers: readonly StackedLayer[] = [];
      for (let generation = 0; generation < 12; generation += 1) {
        for (let change = random(80); change > 0; change -= 1) {
          const page = random(pageCount);
          const kind = random(4);
          if (kind === 0) memory.setPage(page, Buffer.alloc(pageBytes));
          else if (kind === 1)
            memory.setPage(page, image.subarray(page * pageBytes, (page + 1) * pageBytes));
          else memory.setPage(page, randomBytes(pageBytes));
        }
        layers = [...layers, await save(folder, imagePath, layers, memory)];
        if (random(3) === 0) layers = await foldSome(folder, layers, random(layers.length));
        const restored = await restore(image, layers);
        assert.ok(restored.content.equals(memory.content), `generation ${generation}`);
        memory = restored;
      }
    });
  });
}

async function foldSome(
  folder: string,
  layers: readonly StackedLayer[],
  first: number,
): Promise<readonly StackedLayer[]> {
  const target = join(folder, `fold-${randomBytes(4).toString("hex")}`);
  await mkdir(target);
  await using stack = await MemoryStack.open(layers.slice(first), sizeBytes);
  const digest = await stack.fold(target);
  return [...layers.slice(0, first), { folder: target, digest }];
}

test("captured memory is what it was, whatever the guest does next", async () => {
  await withImage(async (image, imagePath, folder) => {
    const memory = new BufferMemory(image);
    // More than one call copies, in short ranges and in a long one.
    const pages = [1, 2, 3, 5, 7, ...Array.from({ length: 290 }, (_, index) => 300 + index), 599];
    for (const page of pages) memory.setPage(page, randomBytes(pageBytes));
    const first = await save(folder, imagePath, [], memory);
    memory.setPage(2, Buffer.alloc(pageBytes));
    memory.setPage(595, randomBytes(pageBytes));
    const then = Buffer.from(memory.content);
    await using stack = await MemoryStack.open([first], sizeBytes);
    using room = await mapTouched(sizeBytes);
    const captured = await CapturedMemory.capture(memory, stack.rangesToCompare(memory), room);
    memory.content.fill(7);
    const second = await save(folder, imagePath, [first], captured);
    assert.deepEqual([second.digest.dataPages, second.digest.zeroPages], [1, 1]);
    assert.ok((await restore(image, [first, second])).content.equals(then));
  });
});

test("damage anywhere is found and named, and nothing damaged is written", async () => {
  await withImage(async (image, imagePath, folder) => {
    const memory = new BufferMemory(image);
    for (let page = 1; page < 400; page += 1) memory.setPage(page, randomBytes(pageBytes));
    const first = await save(folder, imagePath, [], memory);
    for (let page = 1; page < 20; page += 1) memory.setPage(page, randomBytes(pageBytes));
    const second = await save(folder, imagePath, [first], memory);
    for (const [name, damage] of damages) {
      for (const layer of [first, second]) {
        const path = join(layer.folder, name);
        const good = await readFile(path);
        await damage(path, good);
        const restored = new BufferMemory(image);
        await assert.rejects(
          async () => {
            await using stack = await MemoryStack.open([first, second], sizeBytes);
            await stack.applyTo(restored);
          },
          (error) =>
            TorporError.is(error) &&
            error.code === "snapshot.corrupt" &&
            error.message.includes(path),
        );
        for (const page of restored.own) {
          assert.ok(restored.page(page).equals(memory.page(page)), `page ${page} is damaged`);
        }
        await writeFile(path, good);
      }
    }
  });
});

type Damage = (path: string, good: Buffer) => Promise<void>;

function flip(position: (bytes: number) => number): Damage {
  return async (path, good) => {
    const at = position(good.length);
    await using file = await open(path, "r+");
    await file.write(Buffer.of((good[at] ?? 0) ^ 1), 0, 1, at);
  };
}

const damages: readonly (readonly [string, Damage])[] = (
  ["memory.map", "memory.pages"] as const
).flatMap((name) => [
  [name, flip((bytes) => bytes - 1)] as const,
  [name, flip((bytes) => Math.floor(bytes / 2))] as const,
  [name, (path: string, good: Buffer) => truncate(path, good.length - 4)] as const,
  [name, (path: string) => appendFile(path, Buffer.alloc(12))] as const,
]);
