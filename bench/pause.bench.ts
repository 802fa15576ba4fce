/** Pausing an idle sandbox, against QEMU's own save of the same guest's whole memory. */
import { rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { flush } from "@torpor/std";
import { type Daemon, type Sandbox, readDetail } from "@torpor/host";
import { createSandbox, openBenchDaemon, runCommandIn } from "./bench-daemon.ts";
import { defaultBytesPerSecond, saveWholeMemory, unlimitedBytesPerSecond } from "./full-save.ts";
import { type Row, atMost, median } from "./row.ts";
import { timed, tookMs } from "./timing.ts";

const rounds = 5;

/** Measures both saves. */
export async function measurePause(cacheFolder: string): Promise<readonly Row[]> {
  await using undo = new AsyncDisposableStack();
  const daemon = await openBenchDaemon(cacheFolder, undo);
  const sandbox = await createSandbox(daemon);
  undo.defer(async () => void (await daemon.sandboxes.remove(sandbox.record.id)));
  await runCommandIn(sandbox, "/bin/true");
  const pauses: TimedPause[] = [];
  const resumes: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    pauses.push(await timePause(daemon, sandbox));
    resumes.push(await timed(() => sandbox.resume()));
  }
  const saves = await timeFullSaves(sandbox, defaultBytesPerSecond);
  const fastSaves = await timeFullSaves(sandbox, unlimitedBytesPerSecond);
  const pauseMs = median(pauses.map(({ ms }) => ms));
  const ownSaveMs = median(pauses.map(({ saveMs }) => saveMs));
  const saveMs = median(saves.map(({ ms }) => ms));
  const fastSaveMs = median(fastSaves.map(({ ms }) => ms));
  return [
    { row: "pause of an idle sandbox", value: pauseMs, unit: "ms" },
    { row: "pause, guest stopped to published", value: ownSaveMs, unit: "ms" },
    { row: "resume of an idle sandbox", value: median(resumes), unit: "ms" },
    { row: "QEMU full save", value: saveMs, unit: "ms" },
    { row: "QEMU full save, bandwidth unlimited", value: fastSaveMs, unit: "ms" },
    { row: "QEMU full save writes", value: median(saves.map(({ mib }) => mib)), unit: "MiB" },
    atMost("pause writes", Math.max(...pauses.map(({ mib }) => mib)), "MiB", 16),
    { row: "whole pause against QEMU full save", value: pauseMs / saveMs, unit: "of its time" },
    atMost("pause save against QEMU full save", ownSaveMs / saveMs, "of its time", 0.1),
    {
      row: "pause save against QEMU full save, bandwidth unlimited",
      value: ownSaveMs / fastSaveMs,
      unit: "of its time",
    },
  ];
}

interface Timed {
  readonly ms: number;
  readonly mib: number;
}

interface TimedPause extends Timed {
  /**
   * From the last instruction of the guest to the published snapshot: the part that QEMU's save
   * does too.
   */
  readonly saveMs: number;
}

async function timePause({ sandboxes }: Daemon, sandbox: Sandbox): Promise<TimedPause> {
  const startedMonoMs = performance.now();
  const { timings } = await sandbox.pause();
  const ms = performance.now() - startedMonoMs;
  const saveMs = tookMs(timings, "hold vCPUs", "publish");
  const { snapshot } = await readDetail(sandboxes, sandbox);
  const { memoryBytes } = snapshot as { readonly memoryBytes: number };
  return { ms, saveMs, mib: memoryBytes / 2 ** 20 };
}

/** Both sides end with everything flushed to disk. */
async function timeFullSaves(sandbox: Sandbox, bytesPerSecond: number): Promise<readonly Timed[]> {
  const { run } = sandbox;
  if (run === undefined) throw new Error("the sandbox is not running");
  const { handle } = run.vm;
  // The only folder that QEMU may write to.
  const path = join(handle.runFolder, "full.save");
  await sandbox.release(); // QEMU serves one control connection at a time
  const saves: Timed[] = [];
  for (let round = 0; round < rounds; round += 1) {
    await rm(path, { force: true });
    const ms = await timed(async () => {
      await saveWholeMemory(handle.runFolder, path, bytesPerSecond);
      await flush(path);
    });
    saves.push({ ms, mib: ((await stat(path)).blocks * 512) / 2 ** 20 });
  }
  await sandbox.settle();
  return saves;
}
