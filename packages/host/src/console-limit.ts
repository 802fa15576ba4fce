/**
 * Keeps the console of a guest from filling the host's disk: a hostile guest may print up to a
 * limit, and beyond it the file is truncated.
 *
 * QEMU appends to the file, so truncating it needs no cooperation from QEMU. While no daemon runs,
 * nothing truncates it.
 */
import { join } from "node:path";
import { type Logger, ignoreFailure } from "@torpor/std";
import { openRunFile, runFiles } from "@torpor/vmm";
import type { Sandbox } from "./sandbox/sandbox.ts";
import type { Sandboxes } from "./sandboxes.ts";

/** LIMIT: many times what a boot prints. */
const consoleBytesMax = 4 * 1024 * 1024;
const checkMs = 10_000;

/** Checks the consoles of all running sandboxes at an interval, until disposed. */
export function limitConsoles(sandboxes: Sandboxes, log: Logger): Disposable {
  const timer = setInterval(() => {
    const running = sandboxes.all().filter(({ run }) => run !== undefined);
    void cutLongConsoles(running, log);
  }, checkMs);
  timer.unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

type Watched = Pick<Sandbox, "record" | "run">;

/**
 * Checks each console once. A VM that has damaged its folder does not affect the check of the
 * others.
 */
export async function cutLongConsoles(sandboxes: readonly Watched[], log: Logger): Promise<void> {
  for (const sandbox of sandboxes) {
    await ignoreFailure("a file that cannot be opened is not cut", cutIfLong(sandbox, log));
  }
}

async function cutIfLong({ run, record }: Watched, log: Logger): Promise<void> {
  if (run === undefined) return;
  await using file = await openRunFile(join(run.vm.handle.runFolder, runFiles.console), "write");
  if ((await file.stat()).size <= consoleBytesMax) return;
  log.warn("a guest printed too much on its console; it begins anew", { sandboxId: record.id });
  await file.truncate();
}
