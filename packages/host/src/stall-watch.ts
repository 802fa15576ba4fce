/**
 * Looks after VMs that their VMM holds because the host's disk failed a write, usually because it
 * is full: they continue by themselves once there is room again.
 */
import { ignoreFailure } from "@torpor/std";
import type { Sandboxes } from "./sandboxes.ts";

const lookMs = 5_000;

/** Checks every running sandbox at an interval, until disposed. */
export function watchStalls(sandboxes: Sandboxes): Disposable {
  const timer = setInterval(() => {
    for (const sandbox of sandboxes.all()) {
      if (sandbox.run === undefined) continue;
      void ignoreFailure("it is asked again", sandbox.endStall());
    }
  }, lookMs);
  timer.unref();
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
