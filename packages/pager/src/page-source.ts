/**
 * The content of every page of a saved memory, as an address from which this process can have it
 * copied.
 *
 * A page is zeros, or bytes at an address. The states inherit, zero and data of the layers are
 * resolved here: the newest layer that stores a page decides, and the image if none does. Holes of
 * the image, which is a sparse file, are zeros too.
 *
 * Image and layers are mapped, but only system calls read them, never this process itself: for a
 * truncated file the system calls fail with EFAULT. A layer's chunk is compared with its checksum
 * before the first of its pages is used; the image was compared when the template was opened.
 */
import { type FileHandle, open } from "node:fs/promises";
import {
  type AddressRange,
  type MemoryMapping,
  dataRanges,
  mapFile,
  populateMapping,
  readAhead,
} from "@torpor/native";
import { TorporError, assert } from "@torpor/std";
import { MemoryStack, type StackedLayer, pageBytes, stateData } from "@torpor/storage";

/** Consecutive pages of one kind. */
export type Piece =
  | { readonly kind: "zeros"; readonly pageCount: number }
  | { readonly kind: "bytes"; readonly pageCount: number; readonly address: number };

/** A half-open range of pages. */
export interface PageRange {
  readonly firstPage: number;
  readonly endPage: number;
}

/** The content of a saved memory. */
export interface PageSource {
  readonly pageCount: number;
  /** Ranges of pages that the newest layer stores, ascending. */
  readonly newestPages: readonly PageRange[];
  /**
   * The content of this page and of those after it that are like it, at most `pagesMax`.
   * @throws snapshot.corrupt
   */
  pieceAt(page: number, pagesMax: number): Piece;
  /** Makes the disk read pages that will be needed. */
  readAhead(range: PageRange): void;
  /** Maps pages, so that they can be copied without a fault; waits for the disk. */
  mapAhead(range: PageRange): void;
}

/** The files of a saved memory: the template's image, and the layers over it. */
export interface SavedMemoryFiles {
  readonly imagePath: string;
  /** Oldest first. */
  readonly layers: readonly StackedLayer[];
  readonly sizeBytes: number;
}

interface MappedFile {
  readonly fd: number;
  readonly address: number;
}

interface StoredPiece {
  readonly file: MappedFile;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

/** Maps the files of a saved memory. */
export class SavedMemory implements PageSource, AsyncDisposable {
  readonly pageCount: number;
  readonly newestPages: readonly PageRange[];
  readonly #stack: MemoryStack;
  readonly #image: MappedFile;
  /** In the order of the stack. */
  readonly #layers: readonly MappedFile[];
  /** Holds 1 for each page for which the image has content. */
  readonly #inImage: Uint8Array;
  readonly #undo: AsyncDisposableStack;

  private constructor(
    stack: MemoryStack,
    image: MappedFile,
    layers: readonly MappedFile[],
    extents: readonly AddressRange[],
    undo: AsyncDisposableStack,
  ) {
    this.#stack = stack;
    this.#image = image;
    this.#layers = layers;
    this.#undo = undo;
    this.pageCount = stack.sizeBytes / pageBytes;
    this.newestPages = (stack.layers.at(-1)?.runs ?? [])
      .filter(({ state }) => state === stateData)
      .map(({ firstPage, pageCount }) => ({ firstPage, endPage: firstPage + pageCount }));
    this.#inImage = new Uint8Array(this.pageCount);
    for (const { start, end } of extents) {
      this.#inImage.fill(1, Math.floor(start / pageBytes), Math.ceil(end / pageBytes));
    }
  }

  /**
   * Opens and maps the files.
   * @throws snapshot.corrupt naming the file that is missing, damaged or too short.
   */
  static async open({ imagePath, layers, sizeBytes }: SavedMemoryFiles): Promise<SavedMemory> {
    await using undo = new AsyncDisposableStack();
    const stack = undo.use(await MemoryStack.open(layers, sizeBytes));
    const image = undo.use(await openImage(imagePath, sizeBytes));
    const mapped = undo.use(mapFile(image.fd, sizeBytes));
    const extents = dataRanges(image.fd);
    const mappedLayers = stack.layers.map((layer) => ({
      fd: layer.fd,
      address: mapWhole(layer.fd, layer.sizeBytes, undo),
    }));
    const imageFile = { fd: image.fd, address: mapped.address };
    return new SavedMemory(stack, imageFile, mappedLayers, extents, undo.move());
  }

  pieceAt(page: number, pagesMax: number): Piece {
    const origin = this.#stack.originOf(page, pagesMax);
    const { pageCount } = origin;
    if (origin.from !== "layer") {
      return origin.from === "zeros"
        ? { kind: "zeros", pageCount }
        : this.#imagePiece(page, pageCount);
    }
    this.#stack.layers[origin.layer]?.verify(origin.position, pageCount);
    const { address } = this.#layer(origin.layer);
    return { kind: "bytes", pageCount, address: address + origin.position * pageBytes };
  }

  readAhead(range: PageRange): void {
    for (const { file, offsetBytes, lengthBytes } of this.#stored(range)) {
      readAhead(file.fd, offsetBytes, lengthBytes);
    }
  }

  mapAhead(range: PageRange): void {
    for (const { file, offsetBytes, lengthBytes } of this.#stored(range)) {
      populateMapping(file.address + offsetBytes, lengthBytes);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#undo.disposeAsync();
  }

  /**
   * The places of these pages in the files. Holes are left out: reading them would fill the page
   * cache with zeros.
   */
  *#stored({ firstPage, endPage }: PageRange): Generator<StoredPiece> {
    for (let page = firstPage; page < endPage;) {
      const origin = this.#stack.originOf(page, endPage - page);
      let { pageCount } = origin;
      if (origin.from === "image") {
        const piece = this.#imagePiece(page, pageCount);
        ({ pageCount } = piece);
        if (piece.kind === "bytes") yield storedPiece(this.#image, page, pageCount);
      } else if (origin.from === "layer") {
        yield storedPiece(this.#layer(origin.layer), origin.position, pageCount);
      }
      page += pageCount;
    }
  }

  #imagePiece(page: number, pagesMax: number): Piece {
    const hasContent = this.#inImage[page];
    let pageCount = 1;
    while (pageCount < pagesMax && this.#inImage[page + pageCount] === hasContent) pageCount += 1;
    if (hasContent === 0) return { kind: "zeros", pageCount };
    return { kind: "bytes", pageCount, address: this.#image.address + page * pageBytes };
  }

  #layer(index: number): MappedFile {
    const layer = this.#layers[index];
    assert(layer !== undefined, "an origin names a layer of the stack");
    return layer;
  }
}

function storedPiece(file: MappedFile, firstPage: number, pageCount: number): StoredPiece {
  return { file, offsetBytes: firstPage * pageBytes, lengthBytes: pageCount * pageBytes };
}

/** @throws snapshot.corrupt */
async function openImage(path: string, sizeBytes: number): Promise<FileHandle> {
  const image = await open(path, "r").catch((cause: unknown) => {
    throw new TorporError("snapshot.corrupt", `${path} cannot be opened`, { cause });
  });
  const { size } = await image.stat();
  if (size >= sizeBytes) return image;
  await image.close();
  throw new TorporError("snapshot.corrupt", `${path} has ${size} bytes instead of ${sizeBytes}`);
}

/** Maps a layer's file; a layer may consist of zeros only, and then there is nothing to map. */
function mapWhole(fd: number, sizeBytes: number, undo: AsyncDisposableStack): number {
  if (sizeBytes === 0) return 0;
  const mapping: MemoryMapping = undo.use(mapFile(fd, sizeBytes));
  return mapping.address;
}
