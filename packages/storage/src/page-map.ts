/**
 * The map of a memory layer: which pages it changes, and to what.
 *
 * Every page of a guest is in one of three states in a layer. Inherit: as below, in an older layer or
 * in the template's image. Zero: a page of zeros, whatever is below. Data: a page stored in this layer.
 * A page the guest zeroed is written down as zero and never inferred from its content being empty:
 * taking "all zero" for "unchanged" brings old content back and corrupts the guest.
 *
 *     "TORPMAP1", then per run: u32 first page, u32 page count, u32 state (1 zero, 2 data)
 *
 * Runs ascend and do not touch each other's pages; what no run names is inherited. The data pages of
 * a layer are stored in the order of its runs.
 */
import { TorporError } from "@torpor/std";

/** The size of a guest page. */
export const pageBytes = 4096;
/** The state of a page of zeros, as the map writes it. */
export const stateZero = 1;
/** The state of a page whose content the layer stores, as the map writes it. */
export const stateData = 2;
const magic = Buffer.from("TORPMAP1", "latin1");
const runBytes = 12;

/** Consecutive pages in one state. */
export interface PageRun {
  readonly firstPage: number;
  pageCount: number;
  readonly state: typeof stateZero | typeof stateData;
}

/** Adds a page above all others, joining it to the last run where they touch. */
export function appendPage(runs: PageRun[], page: number, state: PageRun["state"]): void {
  const last = runs.at(-1);
  if (last?.state === state && last.firstPage + last.pageCount === page) last.pageCount += 1;
  else runs.push({ firstPage: page, pageCount: 1, state });
}

/** Counts the pages in one state. */
export function countPages(runs: readonly PageRun[], state: PageRun["state"]): number {
  return runs.reduce((sum, run) => (run.state === state ? sum + run.pageCount : sum), 0);
}

/** Encodes runs in the format above. */
export function encodePageMap(runs: readonly PageRun[]): Buffer {
  const map = Buffer.alloc(magic.length + runs.length * runBytes);
  magic.copy(map);
  for (const [index, run] of runs.entries()) {
    const offset = magic.length + index * runBytes;
    map.writeUInt32LE(run.firstPage, offset);
    map.writeUInt32LE(run.pageCount, offset + 4);
    map.writeUInt32LE(run.state, offset + 8);
  }
  return map;
}

/**
 * Decodes and checks a map.
 * @param path The map's path, for messages.
 * @throws snapshot.corrupt when it is no map, or names pages out of order or beyond `sizeBytes`.
 */
export function decodePageMap(map: Buffer, sizeBytes: number, path: string): readonly PageRun[] {
  const wrong = (what: string): TorporError =>
    new TorporError("snapshot.corrupt", `${path} ${what}`);
  if (!map.subarray(0, magic.length).equals(magic)) throw wrong("is of another format");
  if ((map.length - magic.length) % runBytes !== 0) throw wrong("ends in the middle of a run");
  const runs: PageRun[] = [];
  let nextPage = 0;
  for (let offset = magic.length; offset < map.length; offset += runBytes) {
    const state = map.readUInt32LE(offset + 8);
    const run = { firstPage: map.readUInt32LE(offset), pageCount: map.readUInt32LE(offset + 4) };
    if (state !== stateZero && state !== stateData) throw wrong(`has a page in state ${state}`);
    const endPage = run.firstPage + run.pageCount;
    const fits = run.firstPage >= nextPage && run.pageCount > 0 && endPage * pageBytes <= sizeBytes;
    if (!fits) throw wrong("names pages out of order, or that this guest does not have");
    nextPage = endPage;
    runs.push({ ...run, state });
  }
  return runs;
}
