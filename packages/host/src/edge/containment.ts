/**
 * Keeps a failure where it happened: whatever runs because of outside bytes runs in here, so that an
 * exception or a rejection ends one exchange, and neither the daemon nor anybody else's.
 */
import type { EventEmitter } from "node:events";

/** The last resort. It may be called more than once, and what it throws itself is dropped. */
export type OnFailure = (cause: unknown) => void;

/** Runs `work` to its end. Never throws or rejects. */
export function contain(work: () => void | Promise<void>, onFailure: OnFailure): void {
  try {
    const working = work();
    if (working !== undefined) void settle(working, onFailure);
  } catch (cause) {
    resort(onFailure, cause);
  }
}

/** Calls `listener` for each event, with the bytes that some bring, as above. */
export function listen(
  emitter: EventEmitter,
  name: string,
  listener: (bytes: Buffer) => void,
  onFailure: OnFailure,
): void {
  emitter.on(name, (bytes: Buffer) => contain(() => listener(bytes), onFailure));
}

async function settle(working: Promise<void>, onFailure: OnFailure): Promise<void> {
  try {
    await working;
  } catch (cause) {
    resort(onFailure, cause);
  }
}

function resort(onFailure: OnFailure, cause: unknown): void {
  try {
    onFailure(cause);
  } catch {
    // There is nothing left to try, and nobody to tell.
  }
}
