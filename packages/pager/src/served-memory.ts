/**
 * The memory that a pager serves, read by another process: to compare a VM's memory with, and
 * therefore not verified (see `MemoryStack.readBelow`). Takes 5 bytes for each page of the guest,
 * and a descriptor for each layer.
 */
import { type FileHandle, open } from "node:fs/promises";
import type { MemoryRange } from "@torpor/std";
import { MemoryStack } from "@torpor/storage";
import type { SavedMemoryFiles } from "./page-source.ts";

/** Reads the files of a saved memory, without what the VM changed. */
export class ServedMemory implements AsyncDisposable {
  /** Ranges that may differ from the image, ascending. */
  readonly ranges: readonly MemoryRange[];
  readonly #stack: MemoryStack;
  readonly #image: FileHandle;
  readonly #undo: AsyncDisposableStack;

  private constructor(stack: MemoryStack, image: FileHandle, undo: AsyncDisposableStack) {
    this.ranges = stack.ranges();
    this.#stack = stack;
    this.#image = image;
    this.#undo = undo;
  }

  /** Opens the files. @throws snapshot.corrupt naming the file */
  static async open({ imagePath, layers, sizeBytes }: SavedMemoryFiles): Promise<ServedMemory> {
    await using undo = new AsyncDisposableStack();
    const stack = undo.use(await MemoryStack.open(layers, sizeBytes));
    const image = undo.use(await open(imagePath, "r"));
    return new ServedMemory(stack, image, undo.move());
  }

  /** Fills `into`, which must be whole pages. */
  read(offsetBytes: number, into: Uint8Array): void {
    const buffer = Buffer.from(into.buffer, into.byteOffset, into.byteLength);
    this.#stack.readBelow(this.#image, offsetBytes, buffer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#undo.disposeAsync();
  }
}
