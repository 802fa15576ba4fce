/**
 * Keeps the console of a guest from filling the host's disk: what a hostile guest prints is its own
 * affair up to a bound, and beyond it begins anew.
 *
 * QEMU appends to the file, so cutting it needs no word with QEMU. While no daemon runs nothing is cut.
 */
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { type Logger, ignoreFailure } from "@torpor/std";
import { runFiles } from "@torpor/vmm";
import type { Sandbox } from "./sandbox/sandbox.ts";
import type { Sandboxes } from "./sandboxes.ts";

/** LIMIT: many times what a boot prints. */
const consoleBytesMax = 4 * 1024 * 1024;
const checkMs = 10_000;
const { O_WRONLY, O_NOFOLLOW, O_NONBLOCK } = constants;

/** Looks at all running sandboxes from now on, until disposed. */
export function limitConsoles(sandboxes: Sandboxes, log: Logger): Disposable {
  const timer = setInterval(() => {
    void ignoreFailure(
      "a file that is gone is short enough",
      cutLongConsoles(sandboxes.all(), log),
    );
  }, checkMs);
  timer.unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}

/** One look. Exported for tests. */
export async function cutLongConsoles(sandboxes: readonly Sandbox[], log: Logger): Promise<void> {
  for (const { run, record } of sandboxes) {
    if (run === undefined) continue;
    const path = join(run.vm.handle.runFolder, runFiles.console);
    // The folder is the VM process's own: a link in the file's place must lead nowhere.
    await using file = await open(path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK);
    if ((await file.stat()).size <= consoleBytesMax) continue;
    log.warn("a guest printed too much on its console; it begins anew", { sandboxId: record.id });
    await file.truncate();
  }
}
