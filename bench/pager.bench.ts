/**
 * The cost of a page that a pager brings, and how soon a waking guest has what it needs.
 *
 * A process stands in for the VM and a thread of it for a vCPU. A fault is measured by touching
 * memory in order, against a private mapping of the same file in the page cache. A wake is the
 * working set, touched in an order of its own from the moment the pager may know of the VM: pages
 * in runs of 16, which is 64 KiB, scattered over an image that is four times as large. The file is
 * dropped from the page cache before a cold wake, and read before a hot one.
 */
import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { dropFromCache } from "@torpor/native";
import type { PagerOptions } from "@torpor/pager";
import { flush } from "@torpor/std";
import { PagedGuest, SavedFixture, shuffled, soon, startGuest, startPager } from "@torpor/testing";
import { type Row, atLeast, atMost, median } from "./row.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const MiB = 1024 * 1024;
const imageBytes = 128 * MiB;
const imagePages = imageBytes / 4096;
const runPages = 16;
const runs = imagePages / runPages / 4;
const repeats = 5;

interface Wake {
  readonly ms: number;
  readonly faults: number;
  readonly ownPages: number;
}

type Fetch = "recorded" | "sequential" | "none";
type Heat = "cold" | "hot";

/** Measures faults and wakes. */
export async function measurePager(): Promise<readonly Row[]> {
  await using undo = new AsyncDisposableStack();
  const folder = await temporaryFolder(undo);
  const content = [{ firstPage: 0, endPage: imagePages }];
  const saved = await SavedFixture.create(folder, imageBytes, content);
  await flush(saved.imagePath);
  return [...(await measureFaults(saved)), ...(await measureWakes(saved))];
}

async function measureFaults(saved: SavedFixture): Promise<readonly Row[]> {
  const single: number[] = [];
  const wide: number[] = [];
  const plain: number[] = [];
  let residentMiB = 0;
  for (let repeat = 0; repeat < repeats; repeat += 1) {
    await setHeat(saved, "hot");
    plain.push(await touchMapped(saved));
    const narrow = await touchAll(saved, { wideFaults: false });
    single.push(narrow.ms);
    ({ residentMiB } = narrow);
    wide.push((await touchAll(saved, { wideFaults: true })).ms);
  }
  const usPerPage = (ms: readonly number[]): number => (median(ms) * 1000) / imagePages;
  return [
    { row: "pager faults a second, 4 KiB", value: 1e6 / usPerPage(single), unit: "a second" },
    { row: "a fault of 4 KiB", value: usPerPage(single), unit: "µs" },
    { row: "a fault of 256 KiB", value: usPerPage(wide) * 64, unit: "µs" },
    { row: "a page, by faults of 256 KiB", value: usPerPage(wide), unit: "µs" },
    { row: "a page of a private mapping of the same file", value: usPerPage(plain), unit: "µs" },
    { row: "a pager's own memory", value: residentMiB, unit: "MiB" },
  ];
}

async function measureWakes(saved: SavedFixture): Promise<readonly Row[]> {
  const pages = workingSetPages();
  const recordPath = join(saved.folder, "working-set");
  await wake(saved, pages, { recordPath, prefetch: "off" }, "hot");
  const wakes = new Map<string, Wake[]>();
  for (let repeat = 0; repeat < repeats; repeat += 1) {
    for (const heat of ["cold", "hot"] as const) {
      for (const fetch of ["recorded", "sequential", "none"] as const) {
        const options = fetchOptions(fetch, recordPath);
        const one = await wake(saved, pages, options, heat);
        wakes.set(`${fetch} ${heat}`, [...(wakes.get(`${fetch} ${heat}`) ?? []), one]);
      }
    }
  }
  const of = (fetch: Fetch, heat: Heat, what: "ms" | "faults" | "ownPages"): number =>
    median((wakes.get(`${fetch} ${heat}`) ?? []).map((one) => one[what]));
  const fewer = of("none", "cold", "faults") / Math.max(1, of("recorded", "cold", "faults"));
  const cold = of("recorded", "cold", "ms");
  const recordedPages = pages.length;
  return [
    { row: "working set, recorded, cold", value: of("recorded", "cold", "ms"), unit: "ms" },
    { row: "working set, recorded, hot", value: of("recorded", "hot", "ms"), unit: "ms" },
    { row: "working set, sequential, cold", value: of("sequential", "cold", "ms"), unit: "ms" },
    { row: "working set, sequential, hot", value: of("sequential", "hot", "ms"), unit: "ms" },
    { row: "working set, no prefetch, cold", value: of("none", "cold", "ms"), unit: "ms" },
    { row: "working set, no prefetch, hot", value: of("none", "hot", "ms"), unit: "ms" },
    {
      row: "faults with recorded prefetch",
      value: of("recorded", "cold", "faults"),
      unit: "faults",
    },
    atLeast("faults saved by recorded prefetch", fewer, "times fewer", 5),
    atMost(
      "recorded prefetch, cold file against a hot one",
      cold / of("recorded", "hot", "ms"),
      "times as long",
      1.2,
    ),
    atMost(
      "recorded prefetch of a cold file against none of a hot one",
      cold / of("none", "hot", "ms"),
      "times as long",
      1.2,
    ),
    atMost(
      "memory taken by prefetch of the working set",
      of("recorded", "cold", "ownPages") / recordedPages,
      "times as many",
      1.1,
    ),
  ];
}

/** The order of a guest: near pages one after the other, otherwise scattered. */
function workingSetPages(): readonly number[] {
  const starts = Array.from({ length: imagePages / runPages }, (_none, index) => index * runPages);
  return shuffled(starts, 7)
    .slice(0, runs)
    .flatMap((start) => Array.from({ length: runPages }, (_none, index) => start + index));
}

function fetchOptions(fetch: Fetch, recordPath: string): Partial<PagerOptions> {
  switch (fetch) {
    case "recorded":
      return { prefetch: "workingSet", workingSetPath: recordPath };
    case "sequential":
      return { prefetch: "all" };
    case "none":
    default:
      return { prefetch: "off" };
  }
}

async function wake(
  saved: SavedFixture,
  pages: readonly number[],
  options: Partial<PagerOptions>,
  heat: Heat,
): Promise<Wake> {
  await setHeat(saved, heat);
  await using pager = await startPager(saved, options);
  const firstTask = { kind: "touch", pages } as const;
  await using guest = await startGuest(saved, { threads: 1, firstTask });
  const first = await guest.first;
  if (first === undefined) throw new Error("the guest had something to do");
  const deadline = soon("the status");
  const status = await (options.recordPath === undefined
    ? pager.status(deadline)
    : pager.saveWorkingSet(deadline));
  const ownPages = await guest.ownPages();
  return { ms: first.sinceStartMs, faults: status.faults, ownPages };
}

async function touchAll(
  saved: SavedFixture,
  options: Partial<PagerOptions>,
): Promise<{ readonly ms: number; readonly residentMiB: number }> {
  await using pager = await startPager(saved, options);
  await using guest = await startGuest(saved, { threads: 1 });
  const pages = { firstPage: 0, endPage: imagePages };
  const [result] = await guest.run([{ kind: "touch", pages }], soon("touching"));
  const smaps = await readFile(`/proc/${pager.pid}/smaps_rollup`, "utf8");
  const anonymousKiB = Number(/^Pss_Anon:\s+(\d+) kB$/m.exec(smaps)?.[1] ?? 0);
  return { ms: result?.tookMs ?? Number.NaN, residentMiB: anonymousKiB / 1024 };
}

async function touchMapped({ imagePath }: SavedFixture): Promise<number> {
  const spec = { regionBytes: [imageBytes], threads: 1, imagePath };
  await using guest = await PagedGuest.start(spec, soon("starting a guest"));
  const pages = { firstPage: 0, endPage: imagePages };
  const [result] = await guest.run([{ kind: "touch", pages }], soon("touching"));
  return result?.tookMs ?? Number.NaN;
}

async function setHeat({ imagePath }: SavedFixture, heat: Heat): Promise<void> {
  await using image = await open(imagePath, "r");
  dropFromCache(image.fd);
  if (heat === "hot") await image.readFile();
}
