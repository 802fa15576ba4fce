/**
 * The memory of a fake guest: over a file, of which it has what it wrote since; or real memory, whose
 * missing pages a pager brings, as it does the real Firecracker's.
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

export interface GuestMemory {
  readonly sizeBytes: number;
  /** The process stands still until the page is there. */
  read(page: number): Buffer;
  write(page: number, content: Buffer): void;
}

export class FileMemory implements GuestMemory {
  readonly sizeBytes: number;
  readonly #baseFd: number | undefined;
  readonly #written = new Map<number, Buffer>();

  /** @param basePath Undefined: it is powered on, with empty memory. */
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

export class PagedMemory implements GuestMemory {
  readonly sizeBytes: number;
  readonly #address: number;

  /** Tells the pager that listens there of its memory. @throws system error ECONNREFUSED, ENOENT */
  constructor(sizeBytes: number, socketPath: string) {
    this.sizeBytes = sizeBytes;
    this.#address = mapAnonymously(sizeBytes).address;
    const userfaultfd = openUserfaultfd();
    registerWithUserfaultfd(userfaultfd, this.#address, sizeBytes);
    const region = { base_host_virt_addr: this.#address, size: sizeBytes, offset: 0 };
    // All in bytes, the last one too.
    const message = JSON.stringify([{ ...region, page_size: 4096, page_size_kib: 4096 }]);
    // In a jail the path would be short; the kernel takes 107 characters.
    const folder = openSync(dirname(socketPath), "r");
    const socket = connectUnix(`/proc/self/fd/${folder}/${basename(socketPath)}`);
    closeSync(folder);
    // Both stay open, as they do in the real one.
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
