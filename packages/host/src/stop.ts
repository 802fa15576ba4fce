/**
 * How the daemon's program ends: on a signal it leaves the sandboxes running, or pauses them first.
 * After a second signal no further pause is started, and those in progress are awaited, because an
 * interrupted pause would leave a guest standing still. Once all that is done, signals have their
 * default effect again.
 */
import { type Logger, TorporError } from "@torpor/std";
import type { Sandboxes } from "./sandboxes.ts";

/** Action on running sandboxes when the daemon ends: they keep running, or are paused. */
export type OnStop = "leave" | "pause";

const names = ["SIGTERM", "SIGINT"] as const;

/** The events of `process` that this file uses; tests pass another source. */
export interface SignalSource {
  on(name: NodeJS.Signals, listener: () => void): unknown;
  off(name: NodeJS.Signals, listener: () => void): unknown;
}

/** Options of `stopOnSignal`. */
export interface Stopping {
  readonly sandboxes: Pick<Sandboxes, "all" | "pauseAll">;
  readonly onStop: OnStop;
  readonly log: Logger;
  /** Called on the first signal, before anything is paused. */
  readonly onSignal: () => void;
  readonly source?: SignalSource;
}

/** Waits for a signal, then returns once the daemon may let go of the sandboxes. */
export async function stopOnSignal({
  sandboxes,
  onStop,
  log,
  onSignal,
  source = process,
}: Stopping): Promise<void> {
  using listeners = new DisposableStack();
  const first = Promise.withResolvers<NodeJS.Signals>();
  const second = new AbortController();
  let isFirst = true;
  for (const name of names) {
    const listener = (): void => {
      if (isFirst) first.resolve(name);
      else second.abort(new TorporError("canceled", `${name} came before all were paused`));
      isFirst = false;
    };
    source.on(name, listener);
    listeners.defer(() => source.off(name, listener));
  }
  const signal = await first.promise;
  onSignal();
  if (onStop === "leave") {
    log.info("ending; the VMs go on running", { signal });
    return;
  }
  log.info("pausing all sandboxes before the end; a second signal leaves them", { signal });
  await sandboxes.pauseAll(second.signal);
  const ids = sandboxes.all().flatMap(({ run, record }) => (run === undefined ? [] : [record.id]));
  if (ids.length === 0) log.info("ending; no sandbox runs");
  else log.warn("ending; these were not paused and go on running", { ids, ...cutBy(second) });
}

function cutBy({ signal }: AbortController): { readonly because?: unknown } {
  return signal.aborted ? { because: TorporError.from(signal.reason, "canceled").rawMessage } : {};
}
