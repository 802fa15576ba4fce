/**
 * What every page of a saved memory holds, as a place this process can have it copied from.
 *
 * A page is zeros, or bytes at an address. Inherit, zero and data of the layers are resolved here: the
 * newest layer that names a page decides, and the image where none does. What the image leaves out,
 * being a sparse file, is zeros too.
 *
 * Image and layers are mapped and never read by this process itself, only by system calls: of a file
 * that is cut short those say EFAULT. A layer's chunk is compared with its checksum before the first
 * of its pages is given away; the image was, by whoever opened the template.
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

/** Half-open. */
export interface PageRange {
  readonly firstPage: number;
  readonly endPage: number;
}

export interface PageSource {
  readonly pageCount: number;
  /** Pages that the newest layer stores, ascending. */
  readonly newestPages: readonly PageRange[];
  /** What this page holds, and those after it, at most `pagesMax`. @throws snapshot.corrupt */
  pieceAt(page: number, pagesMax: number): Piece;
  /** Has the disk bring pages that will be asked for. */
  readAhead(range: PageRange): void;
  /** Has them where they are copied from without a fault; waits for the disk. */
  mapAhead(range: PageRange): void;
}

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

export class SavedMemory implements PageSource, AsyncDisposable {
  readonly pageCount: number;
  readonly newestPages: readonly PageRange[];
  readonly #stack: MemoryStack;
  readonly #image: MappedFile;
  /** In the order of the stack. */
  readonly #layers: readonly MappedFile[];
  /** One for each page that the image has content for. */
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

  /** @throws snapshot.corrupt naming the file that is missing, damaged or too short. */
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

  /** Where these pages lie. Not of holes: they would be filled with zeros in the page cache. */
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

/** A layer may consist of zeros only. */
function mapWhole(fd: number, sizeBytes: number, undo: AsyncDisposableStack): number {
  if (sizeBytes === 0) return 0;
  const mapping: MemoryMapping = undo.use(mapFile(fd, sizeBytes));
  return mapping.address;
}
