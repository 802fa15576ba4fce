/**
 * The guest's memory as this driver knows it: what it was loaded from, below the pages that
 * Firecracker has found changed since.
 *
 * Firecracker maps the memory file privately and never changes it. With each save it writes the
 * pages that changed since the previous save into one sparse file, over what is there: so that file
 * holds all that changed since the load, and its holes are the pages that did not. The file system,
 * never the content, distinguishes holes from pages: a page of zeros that was written is a page.
 *
 * A VM with a pager has no memory file: the pager returns what the VM was loaded with.
 *
 * INVARIANT: `ownRanges` and `read` return the guest's memory at the last save. It is the current
 * memory as long as the vCPUs are held.
 */
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { open } from "node:fs/promises";
import { setImmediate as yieldToOthers } from "node:timers/promises";
import { dataRanges, mappedPages, tryShareBlocks } from "@torpor/native";
import {
  type MemoryRange,
  TorporError,
  assert,
  joinRanges,
  parseJson,
  parseObject,
  parseString,
  totalBytes,
} from "@torpor/std";
import type { GuestMemory, MemoryContent, VmHandle } from "../driver.ts";
import { fileMappings } from "../file-mappings.ts";
import type { PagedMemory } from "./pager.ts";
import { runPaths } from "./run-files.ts";

const copyBytes = 4 << 20;
const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;

/** The memory of one VM under Firecracker. */
export class FirecrackerMemory implements GuestMemory, Disposable {
  readonly sizeBytes: number;
  readonly #pid: number;
  readonly #runFolder: string;
  readonly #imagePath: string;
  /** Ranges that may differ from the image since the load, ascending. */
  #loadedRanges: readonly MemoryRange[] = [];
  #basePath: string;
  #baseFd: number | undefined;
  readonly #paged: PagedMemory | undefined;
  #changed: { readonly fd: number; readonly ranges: readonly MemoryRange[] } | undefined;

  /** @param paged What the pager loaded, for a VM that has one. */
  constructor(handle: VmHandle, paged?: PagedMemory) {
    this.sizeBytes = handle.memoryMiB * 1024 * 1024;
    this.#pid = handle.pid;
    this.#runFolder = handle.runFolder;
    this.#imagePath = handle.memoryPath;
    this.#basePath = handle.memoryPath;
    this.#paged = paged;
    this.#loadedRanges = paged?.ranges ?? [];
  }

  /** Opens the memory of a VM without a pager that an earlier daemon started. */
  static reach(handle: VmHandle): FirecrackerMemory {
    const memory = new FirecrackerMemory(handle);
    memory.#recall();
    return memory;
  }

  /** The file that holds all of the guest's memory as it was loaded. */
  get basePath(): string {
    return this.#basePath;
  }

  estimateOwnBytes(): number {
    const loaded = totalBytes(this.#loadedRanges);
    return Math.min(this.sizeBytes, loaded + readAnonymousBytes(this.#pid));
  }

  ownRanges(): readonly MemoryRange[] {
    return joinRanges([...this.#loadedRanges, ...(this.#changed?.ranges ?? [])]);
  }

  /**
   * Defined for a VM that maps the image. A pager keeps count itself, and any other file is
   * nobody's image.
   */
  usedRanges(): readonly MemoryRange[] | undefined {
    if (this.#paged !== undefined || this.#basePath !== this.#imagePath) return undefined;
    // There is more than one where memory surrounds the gap below 4 GiB.
    const mappings = fileMappings(this.#pid, this.#imagePath);
    if (mappings.length === 0) return undefined;
    return mappings.flatMap(({ start, end, offsetBytes }) =>
      mappedPages(this.#pid, { start, end }).map((range) => ({
        startBytes: range.start - start + offsetBytes,
        endBytes: range.end - start + offsetBytes,
      })),
    );
  }

  read(offsetBytes: number, into: Uint8Array): void {
    this.#readBase(offsetBytes, into);
    if (this.#changed === undefined) return;
    const endBytes = offsetBytes + into.length;
    const { fd, ranges } = this.#changed;
    for (let index = firstEndingAfter(ranges, offsetBytes); index < ranges.length; index += 1) {
      const range = ranges[index];
      if (range === undefined || range.startBytes >= endBytes) break;
      const start = Math.max(range.startBytes, offsetBytes);
      const end = Math.min(range.endBytes, endBytes);
      readWhole(fd, into.subarray(start - offsetBytes, end - offsetBytes), start);
    }
  }

  /** Makes the file from which the VM is loaded: the image, and `content` over it. */
  async writeFile(content: MemoryContent): Promise<void> {
    const { memory } = runPaths(this.#runFolder);
    await using image = await open(this.#imagePath, "r");
    await using file = await open(memory, "r+");
    await copyFile(image.fd, file.fd, this.sizeBytes);
    await content.applyTo({
      write: async (pieces) => {
        for (const { offsetBytes, bytes } of pieces) writeWhole(file.fd, bytes, offsetBytes);
        await yieldToOthers();
      },
    });
    this.#remember(memory, content.ranges());
  }

  /** Records that the VM is loaded from a file that does not say which pages are the image's. */
  useWhole(path: string): void {
    this.#remember(path, [{ startBytes: 0, endBytes: this.sizeBytes }]);
  }

  /**
   * Reads which pages Firecracker has just written.
   * @param isWhole Whether the file has every page, whatever its holes say.
   */
  refresh(isWhole: boolean): void {
    this.#forgetChanged();
    const fd = this.#openChanged();
    const ranges = isWhole
      ? [{ startBytes: 0, endBytes: this.sizeBytes }]
      : dataRanges(fd).map(({ start, end }) => ({ startBytes: start, endBytes: end }));
    this.#changed = { fd, ranges };
  }

  /** Copies the last save, which must have been whole, to a new file. */
  async copySaved(path: string): Promise<void> {
    assert(this.#changed !== undefined, "memory is saved before it is copied");
    await using file = await open(path, "wx+", 0o600);
    await copyFile(this.#changed.fd, file.fd, this.sizeBytes);
  }

  [Symbol.dispose](): void {
    if (this.#baseFd !== undefined) closeSync(this.#baseFd);
    this.#baseFd = undefined;
    this.#forgetChanged();
  }

  #readBase(offsetBytes: number, into: Uint8Array): void {
    if (this.#paged !== undefined) {
      this.#paged.read(offsetBytes, into);
      return;
    }
    this.#baseFd ??= openSync(this.#basePath, "r");
    readWhole(this.#baseFd, into, offsetBytes);
  }

  /** SAFETY: the file lies where the jailed process may put anything. */
  #openChanged(): number {
    const { changedMemory } = runPaths(this.#runFolder);
    const fd = openSync(changedMemory, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    const stat = fstatSync(fd);
    if (stat.isFile() && stat.nlink === 1 && stat.size === this.sizeBytes) return fd;
    closeSync(fd);
    throw new TorporError("vmm.failed", `Firecracker saved no memory of ${this.sizeBytes} bytes`);
  }

  #forgetChanged(): void {
    if (this.#changed !== undefined) closeSync(this.#changed.fd);
    this.#changed = undefined;
  }

  #remember(basePath: string, ranges: readonly MemoryRange[]): void {
    this.#basePath = basePath;
    this.#loadedRanges = ranges;
    const pairs = ranges.map(({ startBytes, endBytes }) => [startBytes, endBytes]);
    const { loadedMemory } = runPaths(this.#runFolder);
    writeFileSync(loadedMemory, JSON.stringify({ basePath, ranges: pairs }), { mode: 0o600 });
  }

  /** Not checked: only `#remember` writes the file, into a folder that only the owner can write. */
  #recall(): void {
    const { loadedMemory } = runPaths(this.#runFolder);
    const text = readIfThere(loadedMemory);
    if (text === undefined) return;
    const saved = parseObject(parseJson(text, loadedMemory), loadedMemory);
    this.#basePath = parseString(saved["basePath"], "basePath");
    this.#loadedRanges = (saved["ranges"] as readonly [number, number][]).map(
      ([startBytes, endBytes]) => ({ startBytes, endBytes }),
    );
  }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined; // loaded from the image
  }
}

async function copyFile(fromFd: number, toFd: number, sizeBytes: number): Promise<void> {
  if (!tryShareBlocks(fromFd, toFd)) await copySparse(fromFd, toFd, sizeBytes);
}

/** Copies data and leaves holes as holes. Other work gets a turn between parts. */
async function copySparse(fromFd: number, toFd: number, sizeBytes: number): Promise<void> {
  const buffer = Buffer.allocUnsafe(copyBytes);
  for (const { start, end } of dataRanges(fromFd)) {
    for (let at = start; at < Math.min(end, sizeBytes); at += copyBytes) {
      const part = buffer.subarray(0, Math.min(copyBytes, end - at, sizeBytes - at));
      readWhole(fromFd, part, at);
      writeWhole(toFd, part, at);
      await yieldToOthers();
    }
  }
  ftruncateSync(toFd, sizeBytes);
}

function readWhole(fd: number, into: Uint8Array, offsetBytes: number): void {
  for (let done = 0; done < into.length;) {
    const bytes = readSync(fd, into, done, into.length - done, offsetBytes + done);
    if (bytes === 0) throw new TorporError("vmm.failed", "a memory file ends early");
    done += bytes;
  }
}

function writeWhole(fd: number, from: Uint8Array, offsetBytes: number): void {
  for (let done = 0; done < from.length;) {
    done += writeSync(fd, from, done, from.length - done, offsetBytes + done);
  }
}

/** Bytes of the pages that a process wrote, its own heap among them; 0 if it is gone. */
function readAnonymousBytes(pid: number): number {
  const text = readIfThere(`/proc/${pid}/status`) ?? "";
  return Number(/^RssAnon:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) * 1024;
}

function firstEndingAfter(ranges: readonly MemoryRange[], offsetBytes: number): number {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((ranges[middle]?.endBytes ?? 0) > offsetBytes) high = middle;
    else low = middle + 1;
  }
  return low;
}
