/**
 * Folds disk layers that lie on each other into one that means the same.
 *
 * The newest layer that has a guest cluster decides its content: data, or zeros. A cluster that no
 * layer has stays out of the new one too, because it is read from whatever lies below the fold.
 * Zeros are kept for the same reason: leaving them out would expose the content below.
 *
 * The layers are sealed and only read. Data passes through two buffers, one being filled while the
 * other is written, so a fold takes the same memory for any disk.
 */
import { assert } from "@torpor/std";
import {
  clusterBytes,
  entriesPerCluster,
  l1Entries,
  writeReference,
  writeZeroed,
} from "./qcow2-format.ts";
import { Qcow2Reader, inherited, zeroed } from "./qcow2-reader.ts";
import { Qcow2Writer } from "./qcow2-writer.ts";

/** LIMIT: two buffers of 2 MiB; larger ones are not faster. */
const batchClusters = 32;
const zeroCluster = Buffer.alloc(clusterBytes);

/** The guest clusters of one L2 table, as all layers together have them. */
interface MergedTable {
  readonly states: Float64Array;
  /** The layer that holds the data of each cluster. */
  readonly sources: Qcow2Reader[];
}

/**
 * Writes `target`, one overlay in place of `layers`, which are listed oldest first. Not flushed: it
 * becomes durable with the rename that puts it in their place. A failure leaves no target behind.
 * @throws snapshot.corrupt naming the layer and the place,
 * @throws storage.failed when the target already exists,
 * @throws the reason of `signal`.
 */
export async function foldDiskLayers(
  layers: readonly string[],
  target: string,
  virtualBytes: number,
  signal?: AbortSignal,
): Promise<void> {
  assert(layers.length > 0, "a fold of no layers");
  await using undo = new AsyncDisposableStack();
  const newestFirst: Qcow2Reader[] = [];
  for (const path of layers.toReversed()) {
    newestFirst.push(undo.use(await Qcow2Reader.open(path, virtualBytes)));
  }
  const image = undo.use(await Qcow2Writer.create(target, virtualBytes));
  const copier = new TableCopier(image, signal);
  for (let l1Index = 0; l1Index < l1Entries(virtualBytes); l1Index += 1) {
    const merged = await mergeTables(newestFirst, l1Index);
    if (merged !== undefined) await image.writeL2(l1Index, await copier.copy(merged));
    signal?.throwIfAborted();
  }
  await image.finish();
}

async function mergeTables(
  newestFirst: readonly Qcow2Reader[],
  l1Index: number,
): Promise<MergedTable | undefined> {
  let merged: MergedTable | undefined;
  for (const reader of newestFirst) {
    const states = await reader.readStates(l1Index);
    if (states === undefined) continue;
    merged ??= { states: new Float64Array(entriesPerCluster), sources: [] };
    for (let index = 0; index < entriesPerCluster; index += 1) {
      const state = states[index] ?? inherited;
      if (state === inherited || merged.states[index] !== inherited) continue;
      merged.states[index] = state;
      merged.sources[index] = reader;
    }
  }
  return merged;
}

/** Copies the data of one merged table after another into the new image. */
class TableCopier {
  readonly #image: Qcow2Writer;
  readonly #signal: AbortSignal | undefined;
  #filling = Buffer.allocUnsafeSlow(batchClusters * clusterBytes);
  #writing = Buffer.allocUnsafeSlow(batchClusters * clusterBytes);
  #written: Promise<void> = Promise.resolve();

  constructor(image: Qcow2Writer, signal: AbortSignal | undefined) {
    this.#image = image;
    this.#signal = signal;
  }

  /** @returns the L2 table that names the copies. */
  async copy(merged: MergedTable): Promise<Buffer> {
    const table = Buffer.alloc(clusterBytes);
    const withData: number[] = [];
    for (const [index, state] of merged.states.entries()) {
      if (state === zeroed) writeZeroed(table, index);
      else if (state !== inherited) withData.push(index);
    }
    for (let at = 0; at < withData.length; at += batchClusters) {
      this.#signal?.throwIfAborted();
      await this.#copyBatch(merged, withData.slice(at, at + batchClusters), table);
    }
    await this.#written;
    return table;
  }

  async #copyBatch(merged: MergedTable, batch: readonly number[], table: Buffer): Promise<void> {
    await readBatch(merged, batch, this.#filling);
    const kept = dropZeros(batch, this.#filling, table);
    const offsetBytes = this.#image.allocate(kept.length);
    for (const [slot, index] of kept.entries()) {
      writeReference(table, index, offsetBytes + slot * clusterBytes);
    }
    await this.#written;
    [this.#filling, this.#writing] = [this.#writing, this.#filling];
    const data = this.#writing.subarray(0, kept.length * clusterBytes);
    this.#written = this.#image.write(offsetBytes, data);
    // The next batch or the end of the table awaits this; until then a failure must not count as
    // unhandled.
    this.#written.catch(() => undefined);
  }
}

/**
 * Fills the buffer with the clusters of a batch; one read takes clusters that are adjacent in one
 * file.
 */
async function readBatch(
  { states, sources }: MergedTable,
  batch: readonly number[],
  buffer: Buffer,
): Promise<void> {
  const places = batch.map((index) => ({
    source: sources[index],
    offsetBytes: states[index] ?? 0,
  }));
  const reads: Promise<void>[] = [];
  for (let first = 0; first < places.length;) {
    const start = places[first];
    assert(start?.source !== undefined, "data without a source");
    let end = first + 1;
    while (
      places[end]?.source === start.source &&
      places[end]?.offsetBytes === start.offsetBytes + (end - first) * clusterBytes
    ) {
      end += 1;
    }
    const into = buffer.subarray(first * clusterBytes, end * clusterBytes);
    reads.push(start.source.readData(start.offsetBytes, into));
    first = end;
  }
  await Promise.all(reads);
}

/**
 * Turns clusters of nothing but zeros into entries of the table, and moves the others together.
 * @returns the guest clusters that the buffer then holds, in order.
 */
function dropZeros(batch: readonly number[], buffer: Buffer, table: Buffer): readonly number[] {
  const kept: number[] = [];
  for (const [slot, index] of batch.entries()) {
    const start = slot * clusterBytes;
    if (buffer.compare(zeroCluster, 0, clusterBytes, start, start + clusterBytes) === 0) {
      writeZeroed(table, index);
      continue;
    }
    if (slot !== kept.length) {
      buffer.copyWithin(kept.length * clusterBytes, start, start + clusterBytes);
    }
    kept.push(index);
  }
  return kept;
}
