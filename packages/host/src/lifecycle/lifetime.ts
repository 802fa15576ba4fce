/**
 * How long a sandbox may run, and what happens then. Pure: the caller passes the clock in.
 *
 * Three rules, each optional. A timeout counts from when it was set, and ends in `onTimeout`. An
 * idle timeout counts from the last use, and pauses. A maximum counts the running time of all runs
 * together, and kills. Time on disk never counts: a paused sandbox keeps what is left of its
 * timeout.
 */
export interface Lifetime {
  readonly onTimeout: "kill" | "pause";
  /** Wall clock at which the timeout expires, while running; null: never, or not running. */
  readonly endAtMs: number | null;
  /** Time left of the timeout when the last run ended; null: there was no timeout. */
  readonly leftMs: number | null;
  /** The sandbox is paused after this long without use; null: never. */
  readonly idleTimeoutMs: number | null;
  /** The sandbox is killed after this much running time in total; null: never. */
  readonly maxRunMs: number | null;
  /** Running time of earlier runs in total. */
  readonly ranMs: number;
  /** Wall clock at which the last run ended; null before that. */
  readonly endedAtMs: number | null;
}

/**
 * The rules that a caller requests; null or undefined: no such rule, and `onTimeout` is then
 * "kill".
 */
export interface LifetimeRequest {
  readonly timeoutMs?: number | null | undefined;
  readonly onTimeout?: "kill" | "pause" | undefined;
  readonly idleTimeoutMs?: number | null | undefined;
  readonly maxRunMs?: number | null | undefined;
}

/** The first rule to apply to a running sandbox, and the wall clock at which it does. */
export interface Due {
  readonly action: "kill" | "pause";
  readonly rule: "timeout" | "idle timeout" | "maximum running time";
  readonly atMs: number;
}

/**
 * LIMIT: the least timeout that a resume starts with; less would expire before the sandbox is used.
 */
const leftMsMin = 1_000;

/** The lifetime of a sandbox that has not run yet. */
export function newLifetime(request: LifetimeRequest): Lifetime {
  return {
    onTimeout: request.onTimeout ?? "kill",
    endAtMs: null,
    leftMs: request.timeoutMs ?? null,
    idleTimeoutMs: request.idleTimeoutMs ?? null,
    maxRunMs: request.maxRunMs ?? null,
    ranMs: 0,
    endedAtMs: null,
  };
}

/** The lifetime as a run begins. */
export function begin(lifetime: Lifetime, nowMs: number): Lifetime {
  const { leftMs } = lifetime;
  if (leftMs === null) return lifetime;
  return { ...lifetime, endAtMs: nowMs + Math.max(leftMs, leftMsMin), leftMs: null };
}

/** The lifetime after the run that began at `startedAtMs` has ended. */
export function rest(lifetime: Lifetime, startedAtMs: number, nowMs: number): Lifetime {
  const { endAtMs, ranMs } = lifetime;
  return {
    ...lifetime,
    endAtMs: null,
    leftMs: endAtMs === null ? lifetime.leftMs : Math.max(0, endAtMs - nowMs),
    ranMs: ranMs + Math.max(0, nowMs - startedAtMs),
    endedAtMs: nowMs,
  };
}

/** Replaces the timeout, by a shorter or longer one; null removes it. */
export function setTimeoutMs(
  lifetime: Lifetime,
  timeoutMs: number | null,
  runningSinceMs: number | undefined,
  nowMs: number,
): Lifetime {
  const set = { ...lifetime, endAtMs: null, leftMs: timeoutMs };
  if (runningSinceMs === undefined || timeoutMs === null) return set;
  return { ...set, endAtMs: nowMs + timeoutMs, leftMs: null };
}

/**
 * Gives a running sandbox at least this long from now; null removes the timeout. Never shortens it.
 */
export function extend(lifetime: Lifetime, timeoutMs: number | null, nowMs: number): Lifetime {
  if (timeoutMs === null) return { ...lifetime, endAtMs: null };
  if (lifetime.endAtMs === null) return lifetime;
  return { ...lifetime, endAtMs: Math.max(lifetime.endAtMs, nowMs + timeoutMs) };
}

/** Whether the lifetime has no timeout. An idle timeout or a maximum may still end the run. */
export function isEndless({ endAtMs, leftMs }: Lifetime): boolean {
  return endAtMs === null && leftMs === null;
}

/** The rule that applies first to a running sandbox; undefined if none ever does. */
export function nextDue(
  lifetime: Lifetime,
  startedAtMs: number,
  lastUsedAtMs: number,
): Due | undefined {
  const { onTimeout, endAtMs, idleTimeoutMs, maxRunMs, ranMs } = lifetime;
  const rules: Due[] = [];
  if (endAtMs !== null) rules.push({ action: onTimeout, rule: "timeout", atMs: endAtMs });
  if (idleTimeoutMs !== null) {
    rules.push({ action: "pause", rule: "idle timeout", atMs: lastUsedAtMs + idleTimeoutMs });
  }
  if (maxRunMs !== null) {
    const atMs = startedAtMs + maxRunMs - ranMs;
    rules.push({ action: "kill", rule: "maximum running time", atMs });
  }
  return rules.reduce<Due | undefined>(
    (first, rule) => (first === undefined || rule.atMs < first.atMs ? rule : first),
    undefined,
  );
}
