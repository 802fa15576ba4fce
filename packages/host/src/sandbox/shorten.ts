/**
 * Rebases the disk of a running VM onto the layers that its sandbox's record names, when layers
 * that the VM has open were compacted while it ran. The guest continues. During the rebase the
 * record names both the old and the new layers, so whatever happens, the layers that the VM has
 * open are kept. If it fails, the daemon retries after the sandbox's next save.
 */
import { assert, runSteps } from "@torpor/std";
import { type Shortening, shortenSteps } from "../steps/shorten.ts";
import type { Turn } from "./writer.ts";

/**
 * Plans which disk layers to replace.
 * @param openDisks Layers that the VM may have open, oldest first.
 * @param diskLayers Layers that it should use, oldest first; the newest are the same in both.
 * @returns undefined if the VM has no other layers open
 */
export function planShortening(
  openDisks: readonly string[],
  diskLayers: readonly string[],
): Shortening | undefined {
  const replaced = openDisks.filter((id) => !diskLayers.includes(id));
  if (replaced.length === 0) return undefined;
  let first = diskLayers.length;
  while (first > 0 && diskLayers[first - 1] === openDisks.at(first - 1 - diskLayers.length)) {
    first -= 1;
  }
  const above = diskLayers[first];
  assert(above !== undefined, "a VM writes to the newest layer of its sandbox");
  return { above, below: diskLayers.slice(0, first), replaced };
}

/**
 * Rebases the disk; does nothing if the sandbox is not running or its VM has the right layers open.
 */
export async function shortenDisk(turn: Turn): Promise<void> {
  const { record, run, host } = turn;
  const { state, diskLayers } = record;
  if (turn.isRemoved || state.kind !== "running" || run === undefined) return;
  const plan = planShortening(state.openDisks, diskLayers);
  if (plan === undefined) return;
  const { below, replaced } = plan;
  const opened = below.filter((id) => !state.openDisks.includes(id));
  await turn.save({ state: { ...state, openDisks: [...opened, ...state.openDisks] } });
  const context = { ...plan, vm: run.vm, store: host.store };
  const timings = await runSteps(shortenSteps, context, turn.stepOptions("fold"));
  await turn.save({ state: { ...state, openDisks: diskLayers } });
  turn.log.info("the disk of a running VM stands upon fewer layers", {
    diskLayers: diskLayers.length,
    replaced: replaced.length,
    tookMs: timings.reduce((sumMs, { tookMs }) => sumMs + tookMs, 0),
  });
}
