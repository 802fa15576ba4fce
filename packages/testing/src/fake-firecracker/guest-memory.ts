/**
 * The memory of a fake guest: either over a file, keeping only the pages it wrote; or real memory,
 * whose missing pages a pager brings, as for the real Firecracker.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { basename, dirname } from "node:path";
import {
  connectUnix,
  mapAnonymously,
  openUserfaultfd,
  pageBytes,
  readMemory,
  registerWithUserfaultfd,
  sendWithFds,
  writeMemory,
} from "@torpor/native";

/** The pages of a fake guest. */
export interface GuestMemory {
  readonly sizeBytes: number;
  /** Reads a page. The process blocks until the page is present. */
  read(page: number): Buffer;
  write(page: number, content: Buffer): void;
}

/** Memory over a saved file, or empty memory; only written pages are kept. */
export class FileMemory implements GuestMemory {
  readonly sizeBytes: number;
  readonly #baseFd: number | undefined;
  readonly #written = new Map<number, Buffer>();

  /** @param basePath Undefined for a guest that is powered on, with empty memory. */
  constructor(sizeBytes: number, basePath?: string) {
    this.sizeBytes = sizeBytes;
    if (basePath === undefined) return;
    this.#baseFd = openSync(basePath, "r");
    if (fstatSync(this.#baseFd).size >= sizeBytes) return;
    closeSync(this.#baseFd);
    throw new Error("the offset is too large");
  }

  read(page: number): Buffer {
    const written = this.#written.get(page);
    if (written !== undefined) return written;
    const content = Buffer.alloc(pageBytes);
    if (this.#baseFd !== undefined) {
      readSync(this.#baseFd, content, 0, pageBytes, page * pageBytes);
    }
    return content;
  }

  write(page: number, content: Buffer): void {
    this.#written.set(page, content);
  }
}

/** Real memory that a pager fills. */
export class PagedMemory implements GuestMemory {
  readonly sizeBytes: number;
  readonly #address: number;

  /**
   * Sends the pager that listens there a description of the memory. @throws system error
   * ECONNREFUSED, ENOENT
   */
  constructor(sizeBytes: number, socketPath: string) {
    this.sizeBytes = sizeBytes;
    this.#address = mapAnonymously(sizeBytes).address;
    const userfaultfd = openUserfaultfd();
    registerWithUserfaultfd(userfaultfd, this.#address, sizeBytes);
    const region = { base_host_virt_addr: this.#address, size: sizeBytes, offset: 0 };
    // All sizes are in bytes, the last one too.
    const message = JSON.stringify([{ ...region, page_size: 4096, page_size_kib: 4096 }]);
    // In a jail the path would be short; the kernel accepts at most 107 characters.
    const folder = openSync(dirname(socketPath), "r");
    const socket = connectUnix(`/proc/self/fd/${folder}/${basename(socketPath)}`);
    closeSync(folder);
    // Both stay open, as they do in the real Firecracker.
    sendWithFds(socket, Buffer.from(message), [userfaultfd]);
  }

  read(page: number): Buffer {
    const content = Buffer.alloc(pageBytes);
    readMemory(this.#address + page * pageBytes, content);
    return content;
  }

  write(page: number, content: Buffer): void {
    writeMemory(this.#address + page * pageBytes, content);
  }
}
