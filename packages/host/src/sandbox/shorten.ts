/**
 * The disk of a running VM is put upon the layers that its sandbox's record names, when those it was
 * started with, or has added, were folded meanwhile. The guest goes on. The record names both while it
 * is done, so whatever happens, what the VM has open stays; the next save of the sandbox tries again.
 */
import { assert, runSteps } from "@torpor/std";
import { type Shortening, shortenSteps } from "../steps/shorten.ts";
import type { Turn } from "./writer.ts";

/**
 * @param openDisks What the VM may have open, oldest first.
 * @param diskLayers What it is to stand upon, oldest first; the newest are the same.
 * @returns undefined when it stands upon nothing else
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

/** Does nothing to a sandbox that does not run, or whose VM stands upon what it should. */
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
