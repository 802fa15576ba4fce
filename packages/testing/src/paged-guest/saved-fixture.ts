/** Saved memories for tests, and pagers with a stand-in for a VM. */
import { randomBytes } from "node:crypto";
import { closeSync, openSync, readSync } from "node:fs";
import { mkdir, open, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type PageRange, type PagerOptions, PagerProcess } from "@torpor/pager";
import { Deadline } from "@torpor/std";
import { MemoryStack, type StackedLayer, pageBytes } from "@torpor/storage";
import { type GuestSpec, PagedGuest } from "./paged-guest.ts";

/** LIMIT: a test that takes longer hangs. */
const budgetMs = 20_000;
const pagesAtOnce = 4096;

/** A generous budget for an operation that should take far less. */
export function soon(what: string): Deadline {
  return Deadline.after(budgetMs, what);
}

/** An image, layers above it, and a file of the memory that they amount to. */
export class SavedFixture {
  readonly folder: string;
  readonly sizeBytes: number;
  readonly layers: StackedLayer[] = [];

  private constructor(folder: string, sizeBytes: number) {
    this.folder = folder;
    this.sizeBytes = sizeBytes;
  }

  /** Makes an image. @param content The pages with content; the others are holes. */
  static async create(
    folder: string,
    sizeBytes: number,
    content: readonly PageRange[],
  ): Promise<SavedFixture> {
    const saved = new SavedFixture(folder, sizeBytes);
    for (const path of [saved.imagePath, saved.truthPath]) {
      await writeFile(path, "");
      await truncate(path, sizeBytes);
    }
    await saved.#write([saved.imagePath, saved.truthPath], content);
    return saved;
  }

  get imagePath(): string {
    return join(this.folder, "image");
  }

  get truthPath(): string {
    return join(this.folder, "truth");
  }

  get pageCount(): number {
    return this.sizeBytes / pageBytes;
  }

  /** Adds a layer in which some pages have other content and some became zeros. */
  async addLayer(changed: readonly PageRange[], zeroed: readonly PageRange[]): Promise<void> {
    await this.#write([this.truthPath], changed);
    await this.#write([this.truthPath], zeroed, 0);
    const folder = join(this.folder, `layer-${this.layers.length}`);
    await mkdir(folder);
    const truth = openSync(this.truthPath, "r");
    try {
      await using stack = await MemoryStack.open(this.layers, this.sizeBytes);
      const digest = await stack.writeDifference(folder, this.imagePath, {
        sizeBytes: this.sizeBytes,
        ownRanges: () => [...changed, ...zeroed].map(toBytes).toSorted(byStart),
        read: (offsetBytes, into) => readSync(truth, into, 0, into.length, offsetBytes),
      });
      this.layers.push({ folder, digest });
    } finally {
      closeSync(truth);
    }
  }

  /** Writes pages; each differs from all others, unless all are filled alike. */
  async #write(
    paths: readonly string[],
    ranges: readonly PageRange[],
    fill?: number,
  ): Promise<void> {
    const pattern = fill ?? randomBytes(61);
    for (const { firstPage, endPage } of ranges) {
      for (let page = firstPage; page < endPage; page += pagesAtOnce) {
        const count = Math.min(pagesAtOnce, endPage - page);
        const content = Buffer.alloc(count * pageBytes, pattern);
        for (const path of paths) {
          await using file = await open(path, "r+");
          await file.write(content, 0, content.length, page * pageBytes);
        }
      }
    }
  }
}

/** Starts a pager of a saved memory; a folder may hold several, one after the other. */
export async function startPager(
  saved: SavedFixture,
  options: Partial<PagerOptions> = {},
): Promise<PagerProcess> {
  const { imagePath, layers, sizeBytes, folder } = saved;
  return await PagerProcess.start(
    {
      runFolder: folder,
      vmSocketPath: vmSocketPath(saved),
      connectBudgetMs: budgetMs,
      memory: { imagePath, layers, sizeBytes },
      prefetch: "off",
      ...options,
    },
    soon("starting a pager"),
  );
}

/** Starts a stand-in for a VM whose memory this is. */
export function startGuest(
  saved: SavedFixture,
  spec: Partial<GuestSpec> = {},
): Promise<PagedGuest> {
  return PagedGuest.start(
    {
      regionBytes: [saved.sizeBytes],
      threads: 4,
      socketPath: vmSocketPath(saved),
      ...spec,
    },
    soon("starting a guest"),
  );
}

/** The pages of one of `count` threads, divided as evenly as possible. */
export function shareOf(pageCount: number, index: number, count: number): PageRange {
  const share = Math.ceil(pageCount / count);
  const firstPage = Math.min(index * share, pageCount);
  return { firstPage, endPage: Math.min(firstPage + share, pageCount) };
}

/** Shuffles pages; the same seed gives the same order. */
export function shuffled(pages: readonly number[], seed: number): readonly number[] {
  const order = [...pages];
  let state = seed;
  for (let index = order.length - 1; index > 0; index -= 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const other = Math.floor((state / 2 ** 32) * (index + 1));
    [order[index], order[other]] = [order[other] ?? 0, order[index] ?? 0];
  }
  return order;
}

function vmSocketPath({ folder }: SavedFixture): string {
  return join(folder, "vm.sock");
}

function toBytes({ firstPage, endPage }: PageRange): { startBytes: number; endBytes: number } {
  return { startBytes: firstPage * pageBytes, endBytes: endPage * pageBytes };
}

function byStart(a: { startBytes: number }, b: { startBytes: number }): number {
  return a.startBytes - b.startBytes;
}
