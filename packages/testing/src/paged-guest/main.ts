/**
 * A process that looks to a pager like Firecracker: it reserves memory, registers it with a
 * userfaultfd, and sends that with a description to the pager's socket. Threads touch the memory.
 *
 * It ends with the process that started it.
 */
import { openSync } from "node:fs";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import {
  connectUnix,
  mapAnonymously,
  mapFilePrivately,
  openUserfaultfd,
  registerWithUserfaultfd,
  sendWithFds,
} from "@torpor/native";
import type { GuestSpec } from "./paged-guest.ts";
import type { GuestRegion, GuestTask, TaskResult } from "./task.ts";

const spec = JSON.parse(process.argv[2] ?? "") as GuestSpec;
/** The pause between two parts of the message. */
const partPauseMs = 20;
/** Keeps two regions apart. */
const guardBytes = 4096;

process.on("disconnect", () => process.exit(0));
const regions = mapRegions();
const touchers = Array.from({ length: spec.threads }, () => startToucher());
await Promise.all(touchers.map((toucher) => once(toucher, "message")));
process.on("message", ({ thread, task }: { thread: number; task: GuestTask }) => run(thread, task));
const startedMonoMs = performance.now();
if (spec.socketPath !== undefined) await offer(spec.socketPath, regions);
if (spec.firstTask !== undefined) run(0, spec.firstTask);
process.send?.(regions);

function run(thread: number, task: GuestTask): void {
  const toucher = touchers[thread];
  toucher?.once("message", (result: TaskResult) => {
    const sinceStartMs = performance.now() - startedMonoMs;
    process.send?.({ thread, result: { ...result, sinceStartMs } });
  });
  toucher?.postMessage(task);
}

function mapRegions(): readonly GuestRegion[] {
  if (spec.imagePath !== undefined) {
    const [size = 0] = spec.regionBytes;
    const { address } = mapFilePrivately(openSync(spec.imagePath, "r"), size);
    return [{ address, offset: 0, size }];
  }
  let offset = 0;
  return spec.regionBytes.map((size) => {
    const { address } = mapAnonymously(size + guardBytes);
    const region = { address, offset, size };
    offset += size;
    return region;
  });
}

async function offer(socketPath: string, all: readonly GuestRegion[]): Promise<void> {
  const userfaultfd = openUserfaultfd();
  for (const { address, size } of all) registerWithUserfaultfd(userfaultfd, address, size);
  const text = spec.message ?? JSON.stringify(all.map(describe));
  const connection = connectUnix(socketPath);
  const partBytes = Math.ceil(text.length / (spec.messageParts ?? 1));
  for (let at = 0; at < text.length; at += partBytes) {
    const part = Buffer.from(text.slice(at, at + partBytes));
    sendWithFds(connection, part, at === 0 ? [userfaultfd] : []);
    if (at + partBytes < text.length) await sleep(partPauseMs);
  }
}

/** Describes a region as Firecracker 1.16 does: all sizes in bytes, the last one too. */
function describe({ address, offset, size }: GuestRegion): Readonly<Record<string, number>> {
  const shared = { base_host_virt_addr: address, size, offset };
  return { ...shared, page_size: 4096, page_size_kib: 4096 };
}

function startToucher(): Worker {
  return new Worker(new URL("toucher.ts", import.meta.url), { workerData: regions });
}
