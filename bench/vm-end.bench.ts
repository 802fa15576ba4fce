/** How long it takes until the API reports that a VM ended by itself. */
import { setTimeout as sleep } from "node:timers/promises";
import { createSandbox, openBenchDaemon } from "./bench-daemon.ts";
import { type Row, atMost } from "./row.ts";
import { timed } from "./timing.ts";

const rounds = 10;
const pollMs = 1;

/** Measures it over several ends. */
export async function measureVmEnd(cacheFolder: string): Promise<readonly Row[]> {
  await using undo = new AsyncDisposableStack();
  const daemon = await openBenchDaemon(cacheFolder, undo);
  const tookMs: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const sandbox = await createSandbox(daemon);
    const { run } = sandbox;
    if (run === undefined) throw new Error("the sandbox is not running");
    process.kill(run.vm.handle.pid, "SIGKILL");
    tookMs.push(
      await timed(async () => {
        while (sandbox.record.state.kind !== "failed") await sleep(pollMs);
      }),
    );
    await daemon.sandboxes.remove(sandbox.record.id);
  }
  return [atMost("a VM that dies is noticed, slowest", Math.max(...tookMs), "ms", 1000)];
}
