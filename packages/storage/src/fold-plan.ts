/**
 * Decides which of a sandbox's disk layers to fold into one.
 *
 * Every pause adds a layer, and every layer is one more place to look for what the guest reads.
 * Folding all of them each time would write the whole disk again and again; so a layer is folded
 * only into newer ones that together hold at least half of what it holds. A fold then writes at
 * most three times what the newer ones hold, and moves that at least one place further down: a byte
 * of a pause costs at most three written bytes for each layer below it. Each layer left untouched
 * is more than twice as large as the next newer one, except the first few, so their number is a
 * logarithm of the disk's size.
 */
import { assert } from "@torpor/std";

/** A chain this short costs a reader too little to be worth a fold. */
const layersUnfolded = 4;
/** LIMIT: no more layers than this remain, even where their sizes call for no fold. */
const layersMax = 16;
/** A layer is folded when it is at most this many times as large as all newer ones together. */
const growthFactor = 2;

assert(layersUnfolded < layersMax, "the chain may grow to where folding begins");

/** A fold of the newest layers. */
export interface FoldPlan {
  /** This layer and all newer ones become one. */
  readonly first: number;
}

/**
 * Plans the fold for `layerBytes`, the sizes of the files, oldest first. @returns undefined when
 * all layers stay.
 */
export function planFold(layerBytes: readonly number[]): FoldPlan | undefined {
  if (layerBytes.length <= layersUnfolded) return undefined;
  const newest = layerBytes.length - 1;
  const first = Math.min(firstOfSuffix(layerBytes), layersMax - 1);
  return first < newest ? { first } : undefined;
}

/**
 * Finds the oldest layer that can be reached from the newest without passing one that is too large.
 */
function firstOfSuffix(layerBytes: readonly number[]): number {
  let newerBytes = 0;
  for (const [steps, bytes] of layerBytes.toReversed().entries()) {
    if (steps > 0 && bytes > growthFactor * newerBytes) return layerBytes.length - steps;
    newerBytes += bytes;
  }
  return 0;
}
