/**
 * Whether a resume takes longer the more often a sandbox was paused: each pause adds layers, and
 * the background work may run after each. In between the guest changes memory and disk.
 */
import { createSandbox, openBenchDaemon, runCommandIn } from "./bench-daemon.ts";
import { type Row, atMost, median } from "./row.ts";
import { timed } from "./timing.ts";

const pauses = 50;
const change = "head -c 262144 /dev/urandom >/home/user/changed-$(date +%s%N)";

/** Measures resumes after few and after many pauses. */
export async function measureManyPauses(cacheFolder: string): Promise<readonly Row[]> {
  const resumes = await timeResumes(cacheFolder);
  const early = median(resumes.slice(0, 5));
  const late = median(resumes.slice(39));
  return [
    { row: "resume after 1 to 5 pauses", value: early, unit: "ms" },
    { row: "resume after 40 to 50 pauses", value: late, unit: "ms" },
    atMost("resume after many pauses", late / early, "times as long", 1.3),
  ];
}

async function timeResumes(cacheFolder: string): Promise<readonly number[]> {
  await using undo = new AsyncDisposableStack();
  const daemon = await openBenchDaemon(cacheFolder, undo);
  // The daemon's first create is slower and not the sandbox's cost.
  const first = await createSandbox(daemon);
  await first.pause();
  await first.resume();
  await daemon.sandboxes.remove(first.record.id);
  const sandbox = await createSandbox(daemon);
  undo.defer(async () => void (await daemon.sandboxes.remove(sandbox.record.id)));
  const resumes: number[] = [];
  while (resumes.length < pauses) {
    await runCommandIn(sandbox, "/bin/sh", "-c", change);
    await sandbox.pause();
    await daemon.sandboxes.idle();
    resumes.push(await timed(() => sandbox.resume()));
  }
  return resumes;
}
