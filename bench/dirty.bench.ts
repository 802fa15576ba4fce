/**
 * The cost of a pause by how much memory the guest has changed since it woke, and the cost of a
 * resume by how much it holds: a program fills fresh memory with random bytes before each pause.
 */
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Daemon, Sandbox } from "@torpor/host";
import { createSandbox, openBenchDaemon, runCommandIn } from "./bench-daemon.ts";
import { fillMemory } from "./guest-programs.ts";
import { type Row, atMost, median } from "./row.ts";
import { timed, tookMs } from "./timing.ts";

const rounds = 3;
const bytesPerMiB = 2 ** 20;

interface Cycle {
  /** The pause, without the guest's preparation. */
  readonly saveMs: number;
  readonly writtenMiB: number;
  readonly resumeMs: number;
}

/** Measures pauses and resumes for several amounts of memory. */
export async function measureDirty(cacheFolder: string): Promise<readonly Row[]> {
  await using undo = new AsyncDisposableStack();
  const daemon = await openBenchDaemon(cacheFolder, undo);
  const sandbox = await createSandbox(daemon);
  undo.defer(async () => void (await daemon.sandboxes.remove(sandbox.record.id)));
  await runCommandIn(sandbox, ...fillMemory(0));
  await cycle(daemon, sandbox);
  const none = await cycles(daemon, sandbox, 0);
  const few = await cycles(daemon, sandbox, 16);
  const some = await cycles(daemon, sandbox, 64);
  const many = await cycles(daemon, sandbox, 256);
  const later: Cycle[] = [];
  for (let round = 0; round < rounds; round += 1) later.push(await cycle(daemon, sandbox));
  const unit = "ms";
  return [
    { row: "pause with 0 MiB dirty", value: saveMsOf(none), unit },
    { row: "pause with 16 MiB dirty", value: saveMsOf(few), unit },
    { row: "pause with 64 MiB dirty", value: saveMsOf(some), unit },
    { row: "pause with 256 MiB dirty", value: saveMsOf(many), unit },
    { row: "pause with 0 MiB dirty writes", value: writtenMiBOf(none), unit: "MiB" },
    { row: "pause with 16 MiB dirty writes", value: writtenMiBOf(few), unit: "MiB" },
    { row: "pause with 64 MiB dirty writes", value: writtenMiBOf(some), unit: "MiB" },
    { row: "pause with 256 MiB dirty writes", value: writtenMiBOf(many), unit: "MiB" },
    atMost(
      "pause writes beyond what is dirty",
      Math.max(
        ...[writtenMiBOf(none), writtenMiBOf(few) - 16, writtenMiBOf(some) - 64],
        writtenMiBOf(many) - 256,
      ),
      "MiB",
      24,
    ),
    { row: "pause after 256 MiB were saved before", value: saveMsOf(later), unit },
    atMost("pause after 256 MiB were saved before writes", writtenMiBOf(later), "MiB", 24),
    { row: "resume with 0 MiB to load", value: resumeMsOf(none), unit },
    { row: "resume with 64 MiB to load", value: resumeMsOf(some), unit },
    { row: "resume with 256 MiB to load", value: resumeMsOf(many), unit },
  ];
}

/** Runs cycles, each with so much memory written since the wake before. */
async function cycles(
  daemon: Daemon,
  sandbox: Sandbox,
  dirtyMiB: number,
): Promise<readonly Cycle[]> {
  const all: Cycle[] = [];
  for (let round = 0; round < rounds; round += 1) {
    await runCommandIn(sandbox, ...fillMemory(dirtyMiB));
    all.push(await cycle(daemon, sandbox));
  }
  return all;
}

async function cycle({ sandboxes }: Daemon, sandbox: Sandbox): Promise<Cycle> {
  let prepareMs = 0;
  const pauseMs = await timed(async () => {
    const { timings } = await sandbox.pause();
    prepareMs = tookMs(timings, "prepare");
  });
  const { snapshotId } = sandbox.record;
  // Read at once: a fold may replace it.
  const writtenMiB = allocatedMiB(sandboxes.store.folder(snapshotId ?? ""));
  await sandboxes.idle();
  const resumeMs = await timed(() => sandbox.resume());
  return { saveMs: pauseMs - prepareMs, writtenMiB, resumeMs };
}

/** The space that a folder's files take; `blocks` counts units of 512 bytes. */
function allocatedMiB(folder: string): number {
  const bytes = readdirSync(folder).map((name) => statSync(join(folder, name)).blocks * 512);
  return bytes.reduce((sum, one) => sum + one, 0) / bytesPerMiB;
}

function saveMsOf(all: readonly Cycle[]): number {
  return median(all.map(({ saveMs }) => saveMs));
}

function resumeMsOf(all: readonly Cycle[]): number {
  return median(all.map(({ resumeMs }) => resumeMs));
}

/** The largest amount: it does not vary by chance. */
function writtenMiBOf(all: readonly Cycle[]): number {
  return Math.max(...all.map(({ writtenMiB }) => writtenMiB));
}
