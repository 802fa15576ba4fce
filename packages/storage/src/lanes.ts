/** Work on many things, some at a time. */

/**
 * Lanes share the items: each takes the next one when it is done with the one before. Once one has failed
 * none takes another. Settles when all have come to their end, so that nothing goes on behind the caller.
 * @param lane Goes through the items that come to it.
 * @throws what the first of the lanes that failed has thrown
 */
export async function runLanes<Item>(
  laneCount: number,
  items: Iterable<Item>,
  lane: (items: Iterable<Item>) => Promise<void>,
): Promise<void> {
  const shared = share(items);
  const lanes = Array.from({ length: laneCount }, () => lane(shared));
  await Promise.allSettled(lanes);
  await Promise.all(lanes);
}

/** A loop that is left by an error closes a generator, for everybody who is in a loop over it. */
function* share<Item>(items: Iterable<Item>): Generator<Item> {
  yield* items;
}
