/**
 * The guest of a fake Firecracker: memory, some pages of which it writes all the time it runs, and
 * a disk.
 *
 * It writes data and zeros alike, and knows which pages it has written since the last save, as KVM
 * does. The texts that a test asks it to remember are in its memory and on its disk.
 */
import { createHash, randomBytes, randomInt } from "node:crypto";
import { fsyncSync, openSync, readSync, writeSync } from "node:fs";
import { pageBytes } from "@torpor/native";
import type { GuestMemory } from "./guest-memory.ts";

/** Pages with a meaning; the guest writes all others at random. */
const counterPage = 1;
const notePage = 2;
const generationPage = 3;
/** The rings of its devices, which Firecracker takes for changed after each save. */
const ringPages = [4, 5];
const firstFreePage = 16;
const noteDiskBytes = 1 << 20;
const tickMs = 5;
const writesPerTick = 2;
const checksumBytes = 8;

/** A guest that runs inside the fake Firecracker's own process. */
export class FakeGuest {
  readonly #memory: GuestMemory;
  /** Pages written since the load and since the last save. */
  readonly #written = new Set<number>();
  readonly #dirty = new Set<number>();
  readonly #diskFd: number;
  #timer: NodeJS.Timeout | undefined;

  constructor(memory: GuestMemory, diskPath: string) {
    this.#memory = memory;
    this.#diskFd = openSync(diskPath, "r+");
  }

  get sizeBytes(): number {
    return this.#memory.sizeBytes;
  }

  get isRunning(): boolean {
    return this.#timer !== undefined;
  }

  /** Powers on: some memory is written before anything runs. */
  boot(): void {
    for (let page = 0; page < 64; page += 1) this.#write(page, randomBytes(pageBytes));
    this.resume();
  }

  resume(): void {
    this.#timer ??= setInterval(() => this.#tick(), tickMs);
  }

  pause(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Gives the guest an id that no other VM has, as Firecracker does with each load. */
  renewGeneration(): void {
    this.#write(generationPage, Buffer.alloc(pageBytes, randomBytes(16)));
  }

  remember(text: string): void {
    this.#write(notePage, Buffer.alloc(pageBytes, text.padEnd(64)));
    const block = Buffer.alloc(pageBytes, text.padEnd(64));
    writeSync(this.#diskFd, block, 0, block.length, noteDiskBytes);
    // Zeros in place of data are a change like any other.
    writeSync(this.#diskFd, Buffer.alloc(pageBytes), 0, pageBytes, noteDiskBytes + pageBytes);
  }

  recall(): { readonly memory: string; readonly disk: string; readonly ticks: number } {
    const block = Buffer.alloc(64);
    readSync(this.#diskFd, block, 0, block.length, noteDiskBytes);
    return {
      memory: this.#read(notePage).toString("latin1", 0, 64).replace(/\0/g, "").trim(),
      disk: block.toString("latin1").replace(/\0/g, "").trim(),
      ticks: this.#read(counterPage).readUInt32LE(),
    };
  }

  /** Checksums of all pages, 8 bytes each, which a load must bring back. */
  checksums(): Buffer {
    const pages = Array.from({ length: this.sizeBytes / pageBytes }, (_, page) => page);
    return Buffer.concat(pages.map((page) => sha1(this.#read(page)).subarray(0, checksumBytes)));
  }

  /** Finds pages that nobody has written and that nevertheless differ from the saved ones. */
  findStrange(saved: Buffer): readonly number[] {
    const now = this.checksums();
    const strange: number[] = [];
    for (let at = 0; at < now.length; at += checksumBytes) {
      const end = at + checksumBytes;
      const isWritten = this.#written.has(at / checksumBytes);
      if (!isWritten && now.compare(saved, at, end, at, end) !== 0) {
        strange.push(at / checksumBytes);
      }
    }
    return strange;
  }

  /**
   * Saves memory. @param onlyChanged Writes what changed since the last save, and leaves the rest
   * of the file.
   */
  save(fd: number, onlyChanged: boolean): void {
    const all = Array.from({ length: this.sizeBytes / pageBytes }, (_, page) => page);
    for (const page of onlyChanged ? this.#dirty : all) {
      writeSync(fd, this.#read(page), 0, pageBytes, page * pageBytes);
    }
    fsyncSync(fd);
    this.#dirty.clear();
    for (const page of ringPages) this.#dirty.add(page);
  }

  #tick(): void {
    const counter = Buffer.from(this.#read(counterPage));
    counter.writeUInt32LE(counter.readUInt32LE() + 1);
    this.#write(counterPage, counter);
    for (let count = 0; count < writesPerTick; count += 1) {
      const page = randomInt(firstFreePage, this.sizeBytes / pageBytes);
      this.#write(page, count === 0 ? Buffer.alloc(pageBytes) : randomBytes(pageBytes));
    }
    // A page that had content becomes zeros.
    const [known] = this.#written;
    if (known !== undefined && known >= firstFreePage) this.#write(known, Buffer.alloc(pageBytes));
  }

  #read(page: number): Buffer {
    return this.#memory.read(page);
  }

  #write(page: number, content: Buffer): void {
    this.#memory.write(page, content);
    this.#written.add(page);
    this.#dirty.add(page);
  }
}

function sha1(content: Buffer): Buffer {
  return createHash("sha1").update(content).digest();
}
