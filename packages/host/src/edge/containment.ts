/**
 * Keeps a failure where it happened: all work that outside bytes cause runs in here, so that an
 * exception or a rejection ends one exchange, and neither the daemon nor another client's exchange.
 */
import type { EventEmitter } from "node:events";

/** Handles the failure. It may be called more than once, and errors that it throws are dropped. */
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

/** Contains `listener` for each event of that name. Some events bring bytes. */
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
    // Nothing is left to try, and there is no caller to report to.
  }
}
