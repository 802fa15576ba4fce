/** Runs work on many items, a few at a time. */

/**
 * Runs lanes that share the items: each lane takes the next item when it is done with the one
 * before. Once one has failed, none takes another item. Settles when all lanes have ended, so that
 * no work continues behind the caller.
 * @param lane Loops over the items it receives.
 * @throws what the first lane that failed has thrown
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

/** A generator closes for every loop over it when one loop is left by an error. */
function* share<Item>(items: Iterable<Item>): Generator<Item> {
  yield* items;
}
