/**
 * A fork of a warmed-up sandbox, to the end of its child's first command, against a sandbox that is
 * created and warmed up in the same way. The first command asks for the warmed-up process.
 */
import type { Daemon, Sandbox } from "@torpor/host";
import { createSandbox, openBenchDaemon, runCommandIn } from "./bench-daemon.ts";
import { askWarm, warmUp } from "./guest-programs.ts";
import { type Row, atLeast, median } from "./row.ts";
import { timed } from "./timing.ts";

const rounds = 5;

/** Measures forks and creates. */
export async function measureFork(cacheFolder: string): Promise<readonly Row[]> {
  await using undo = new AsyncDisposableStack();
  const daemon = await openBenchDaemon(cacheFolder, undo);
  const parent = await createWarm(daemon);
  const forks: number[] = [];
  const creates: number[] = [];
  // One more than is counted: the first pays for what is done once.
  for (let round = 0; round <= rounds; round += 1) {
    const forkMs = await timeNew(daemon, () => forkOne(daemon, parent));
    const createMs = await timeNew(daemon, () => createWarm(daemon));
    if (round === 0) continue;
    forks.push(forkMs);
    creates.push(createMs);
  }
  await daemon.sandboxes.remove(parent.record.id);
  return [
    { row: "fork to the child's first command", value: median(forks), unit: "ms" },
    { row: "create and warm-up to first command", value: median(creates), unit: "ms" },
    atLeast("fork against create and warm-up", median(creates) / median(forks), "times faster", 3),
  ];
}

async function createWarm(daemon: Daemon): Promise<Sandbox> {
  const sandbox = await createSandbox(daemon);
  await runCommandIn(sandbox, ...warmUp);
  return sandbox;
}

async function forkOne({ sandboxes }: Daemon, parent: Sandbox): Promise<Sandbox> {
  const { children } = await sandboxes.fork(parent.record.id, { count: 1, lifetime: {} });
  const [child] = children;
  if (child?.status !== "fulfilled") throw new Error("the child was not made", { cause: child });
  return child.value.sandbox;
}

/** The time from the request to the end of the first command. */
async function timeNew({ sandboxes }: Daemon, make: () => Promise<Sandbox>): Promise<number> {
  let sandbox: Sandbox | undefined;
  const ms = await timed(async () => {
    sandbox = await make();
    await runCommandIn(sandbox, ...askWarm);
  });
  if (sandbox !== undefined) await sandboxes.remove(sandbox.record.id);
  await sandboxes.idle();
  return ms;
}
