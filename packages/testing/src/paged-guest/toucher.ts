/**
 * A thread of a paged guest: touches memory like a vCPU, and blocks while a page is missing. The
 * process's first thread never touches any, so that it always answers.
 */
import { openSync, readSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import { discardMemory, pageBytes, readMemory, writeMemory } from "@torpor/native";
import type { GuestRegion, GuestTask, StormTask, TaskResult, TouchTask } from "./task.ts";

const regions = workerData as readonly GuestRegion[];
const wrongPagesMax = 8;
const touchedBytes = Buffer.alloc(8);
const page = Buffer.alloc(pageBytes);
const expected = Buffer.alloc(pageBytes);

parentPort?.on("message", (task: GuestTask) => {
  const startedMonoMs = performance.now();
  const result = task.kind === "touch" ? touch(task) : storm(task);
  parentPort?.postMessage({ ...result, tookMs: performance.now() - startedMonoMs });
});

parentPort?.postMessage("ready");

type Outcome = Omit<TaskResult, "tookMs" | "sinceStartMs">;

function touch({ pages, truthPath }: TouchTask): Outcome {
  const numbers = "firstPage" in pages ? rangeOf(pages.firstPage, pages.endPage) : pages;
  const truth = truthPath === undefined ? undefined : openSync(truthPath, "r");
  const wrongPages: number[] = [];
  let touchedPages = 0;
  for (const number of numbers) {
    touchedPages += 1;
    if (truth === undefined) {
      readMemory(addressOf(number), touchedBytes);
      continue;
    }
    readMemory(addressOf(number), page);
    readSync(truth, expected, 0, pageBytes, number * pageBytes);
    if (!page.equals(expected) && wrongPages.length < wrongPagesMax) wrongPages.push(number);
  }
  return { touchedPages, wrongPages };
}

/** Each page must be as saved, zeros once it was discarded, or as last written. */
function storm({ firstPage, endPage, rounds, seed, truthPath }: StormTask): Outcome {
  const truth = openSync(truthPath, "r");
  const written = new Map<number, number>();
  const wrongPages: number[] = [];
  let touchedPages = 0;
  let state = seed;
  const random = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  for (let round = 0; round < rounds; round += 1) {
    const start = firstPage + random(endPage - firstPage);
    const end = Math.min(endPage, start + 1 + random(32));
    const isWritten = random(3) === 0;
    if (random(2) === 0) {
      discardMemory(addressOf(start), (end - start) * pageBytes);
      for (let number = start; number < end; number += 1) written.set(number, 0);
    }
    for (let number = start; number < end; number += 1) {
      touchedPages += 1;
      const content = written.get(number);
      if (content === undefined) readSync(truth, expected, 0, pageBytes, number * pageBytes);
      else expected.fill(content);
      readMemory(addressOf(number), page);
      if (!page.equals(expected) && wrongPages.length < wrongPagesMax) wrongPages.push(number);
      if (!isWritten) continue;
      writeMemory(addressOf(number), page.fill(1 + (round % 255)));
      written.set(number, 1 + (round % 255));
    }
  }
  return { touchedPages, wrongPages };
}

function* rangeOf(first: number, end: number): Generator<number> {
  for (let number = first; number < end; number += 1) yield number;
}

function addressOf(number: number): number {
  const offset = number * pageBytes;
  for (const region of regions) {
    if (offset < region.offset || offset >= region.offset + region.size) continue;
    return region.address + offset - region.offset;
  }
  throw new Error(`page ${number} is in no region`);
}
