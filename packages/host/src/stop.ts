/**
 * How the daemon's program ends: on a signal it leaves the sandboxes running, or puts them to sleep
 * first. A second signal meanwhile leaves those that have not been begun with, and those that have been
 * are waited for: a pause that is cut short would leave a guest standing still. From then on signals do
 * again what they always do.
 */
import { type Logger, TorporError } from "@torpor/std";
import type { Sandboxes } from "./sandboxes.ts";

export type OnStop = "leave" | "pause";

const names = ["SIGTERM", "SIGINT"] as const;

/** What the outside world looks like here. */
export interface SignalSource {
  on(name: NodeJS.Signals, listener: () => void): unknown;
  off(name: NodeJS.Signals, listener: () => void): unknown;
}

export interface Stopping {
  readonly sandboxes: Pick<Sandboxes, "all" | "pauseAll">;
  readonly onStop: OnStop;
  readonly log: Logger;
  /** From the first signal on, before anything is paused. */
  readonly onSignal: () => void;
  readonly source?: SignalSource;
}

/** Waits for the signal, and returns when the sandboxes may be let go of. */
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
