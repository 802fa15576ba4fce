/** A create from a named snapshot, to the end of its first command, with a pool of it and without. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Daemon } from "@torpor/host";
import { createSandbox, openBenchDaemon, runCommandIn } from "./bench-daemon.ts";
import { askWarm, warmUp } from "./guest-programs.ts";
import { type Row, atLeast, median } from "./row.ts";
import { timed } from "./timing.ts";

const rounds = 9;
const readyPollMs = 20;
const name = "warm";

/** Measures creates with and without a pool. */
export async function measurePool(cacheFolder: string): Promise<readonly Row[]> {
  await using undo = new AsyncDisposableStack();
  const daemon = await openBenchDaemon(cacheFolder, undo);
  const sandbox = await createSandbox(daemon);
  await runCommandIn(sandbox, ...warmUp);
  await daemon.sandboxes.takeSnapshot(sandbox.record.id, name);
  await daemon.sandboxes.remove(sandbox.record.id);
  const alone = median(await timeCreates(daemon, 0));
  await daemon.sandboxes.setPool(name, 1);
  const pooled = median(await timeCreates(daemon, 1));
  return [
    { row: "create from a snapshot to first command", value: alone, unit: "ms" },
    { row: "create from a snapshot with a pool to first command", value: pooled, unit: "ms" },
    atLeast("create from a snapshot with a pool", alone / pooled, "times faster", 3),
  ];
}

async function timeCreates(daemon: Daemon, pool: number): Promise<readonly number[]> {
  const { sandboxes } = daemon;
  const times: number[] = [];
  // One more than is counted: the first pays for what is done once.
  for (let round = 0; round <= rounds; round += 1) {
    while (sandboxes.sparesReady < pool) await sleep(readyPollMs);
    const ms = await timed(async () => {
      await runCommandIn(await createSandbox(daemon, name), ...askWarm);
    });
    if (round > 0) times.push(ms);
    for (const { record } of sandboxes.all()) await sandboxes.remove(record.id);
  }
  return times;
}
