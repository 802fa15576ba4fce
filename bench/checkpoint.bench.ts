/**
 * How long a running sandbox is stopped while a snapshot of it is taken, as for a fork: an idle
 * one, and one with some 100 MiB of memory of its own. All pages that may have changed since the
 * template are copied while the guest is stopped, so the time depends on its own memory.
 */
import type { GuestCommand } from "@torpor/setup";
import { createSandbox, openBenchDaemon, runCommandIn } from "./bench-daemon.ts";
import { warmUp } from "./guest-programs.ts";
import { type Row, atMost, quantile } from "./row.ts";
import { StolenTime } from "./stolen-time.ts";
import { tookMs } from "./timing.ts";

const rounds = 30;

interface Stop {
  /** No instruction of the guest runs. */
  readonly heldMs: number;
  /** No instruction of a user's process runs. */
  readonly frozenMs: number;
}

/** Measures both sandboxes. */
export async function measureCheckpoint(cacheFolder: string): Promise<readonly Row[]> {
  const stolen = new StolenTime();
  const idle = await takeCheckpoints(cacheFolder, ["/bin/true"]);
  const warm = await takeCheckpoints(cacheFolder, warmUp);
  const unit = "ms";
  return [
    atMost("checkpoint stops an idle guest, p50", heldMs(idle, 0.5), "ms", 50),
    atMost("checkpoint stops an idle guest, p99", heldMs(idle, 0.99), "ms", 50),
    atMost("checkpoint freezes user processes, p50", frozenMs(idle, 0.5), "ms", 100),
    atMost("checkpoint freezes user processes, p99", frozenMs(idle, 0.99), "ms", 150),
    atMost("checkpoint stops a warmed-up guest, p50", heldMs(warm, 0.5), "ms", 50),
    { row: "checkpoint stops a warmed-up guest, p99", value: heldMs(warm, 0.99), unit },
    {
      row: "checkpoint: processor time that this machine's host gave to others",
      value: 100 * stolen.share(),
      unit: "%",
    },
  ];
}

async function takeCheckpoints(cacheFolder: string, first: GuestCommand): Promise<readonly Stop[]> {
  await using undo = new AsyncDisposableStack();
  const daemon = await openBenchDaemon(cacheFolder, undo);
  const sandbox = await createSandbox(daemon);
  undo.defer(async () => void (await daemon.sandboxes.remove(sandbox.record.id)));
  await runCommandIn(sandbox, ...first);
  const stops: Stop[] = [];
  // One more than is counted: the first writes everything that the guest has changed so far.
  for (let round = 0; round <= rounds; round += 1) {
    await runCommandIn(sandbox, "/bin/true");
    using checkpoint = await sandbox.checkpoint();
    const { timings } = checkpoint;
    const stop = {
      heldMs: tookMs(timings, "hold vCPUs", "release vCPUs"),
      frozenMs: tookMs(timings, "prepare", "thaw"),
    };
    if (round > 0) stops.push(stop);
    await daemon.sandboxes.idle();
  }
  return stops;
}

function heldMs(stops: readonly Stop[], share: number): number {
  return quantile(
    stops.map((stop) => stop.heldMs),
    share,
  );
}

function frozenMs(stops: readonly Stop[], share: number): number {
  return quantile(
    stops.map((stop) => stop.frozenMs),
    share,
  );
}
