/**
 * From the request for a sandbox to the end of its first command, against powering the same VM on
 * and running the same command. With one spare sandbox ready, the daemon's default, and without.
 */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { processClient } from "@torpor/guest";
import { baseImage, bootGuest } from "@torpor/setup";
import { Deadline } from "@torpor/std";
import { TemplateStore, createOverlay, templatesFolder } from "@torpor/storage";
import { QemuDriver } from "@torpor/vmm";
import { createSandbox, openBenchDaemon, runCommandIn, runToEnd } from "./bench-daemon.ts";
import { type Row, atLeast, median } from "./row.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const createRounds = 9;
const bootRounds = 3;
const bootBudgetMs = 120_000;
const sparePollMs = 20;
const command = "/bin/true";

/** Measures creates and boots. */
export async function measureCreate(cacheFolder: string): Promise<readonly Row[]> {
  const restoreMs = median(await timeCreates(cacheFolder, 0));
  const spareMs = median(await timeCreates(cacheFolder, 1));
  const bootMs = median(await timeBoots(cacheFolder));
  return [
    { row: "create to first command", value: spareMs, unit: "ms" },
    { row: "create without a spare to first command", value: restoreMs, unit: "ms" },
    { row: "cold boot to first command", value: bootMs, unit: "ms" },
    atLeast("create against cold boot", bootMs / spareMs, "times faster", 20),
    {
      row: "create without a spare against cold boot",
      value: bootMs / restoreMs,
      unit: "times faster",
    },
    atLeast("create against create without a spare", restoreMs / spareMs, "times faster", 3),
  ];
}

async function timeCreates(cacheFolder: string, spareCount: number): Promise<readonly number[]> {
  await using undo = new AsyncDisposableStack();
  const daemon = await openBenchDaemon(cacheFolder, undo, spareCount);
  const times: number[] = [];
  // One more than is counted: the first pays for what the host does once.
  for (let round = 0; round <= createRounds; round += 1) {
    while (daemon.sandboxes.sparesReady < spareCount) await sleep(sparePollMs);
    const startedMonoMs = performance.now();
    const sandbox = await createSandbox(daemon);
    await runCommandIn(sandbox, command);
    if (round > 0) times.push(performance.now() - startedMonoMs);
    await daemon.sandboxes.remove(sandbox.record.id);
  }
  return times;
}

async function timeBoots(cacheFolder: string): Promise<readonly number[]> {
  const store = new TemplateStore(templatesFolder(cacheFolder));
  const { accelerator } = (await store.open("base")).manifest.identity;
  const driver = new QemuDriver({ accelerator });
  await driver.identity();
  const base = await baseImage(cacheFolder);
  const times: number[] = [];
  for (let round = 0; round < bootRounds; round += 1) {
    await using undo = new AsyncDisposableStack();
    const runFolder = await temporaryFolder(undo);
    const startedMonoMs = performance.now();
    const layer = join(runFolder, "disk.qcow2");
    await createOverlay(layer, base.diskBytes);
    const deadline = Deadline.after(bootBudgetMs, "a cold boot");
    const { link, init } = await bootGuest(
      {
        ...base,
        name: "bench",
        driver,
        disk: [
          { path: base.diskPath, format: "raw" },
          { path: layer, format: "qcow2" },
        ],
        memoryPath: join(runFolder, "memory.img"),
        runFolder,
      },
      deadline,
      undo,
    );
    await link.init({ ...init, timestampMs: Date.now() }, deadline);
    await runToEnd(processClient(link, null), command);
    times.push(performance.now() - startedMonoMs);
  }
  return times;
}
