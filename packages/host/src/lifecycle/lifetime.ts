/**
 * How long a sandbox may run, and what happens then. Pure: the clock is passed in.
 *
 * Three rules, each optional. A timeout counts from when it was set, and ends in `onTimeout`. An idle
 * timeout counts from the last use, and pauses. A maximum counts all the running time there ever was,
 * and kills. Time on disk never counts: a paused sandbox takes the rest of its timeout along.
 */
export interface Lifetime {
  readonly onTimeout: "kill" | "pause";
  /** Wall clock at which the timeout is over, while running; null: never, or not running. */
  readonly endAtMs: number | null;
  /** What was left of the timeout when the last run ended; null: it had none. */
  readonly leftMs: number | null;
  /** Paused when nobody has used it for so long. */
  readonly idleTimeoutMs: number | null;
  /** Killed when it has run for so long altogether. */
  readonly maxRunMs: number | null;
  /** Running time of earlier runs. */
  readonly ranMs: number;
  /** When the last run was over; null before that. */
  readonly endedAtMs: number | null;
}

export interface LifetimeRequest {
  readonly timeoutMs?: number | null | undefined;
  readonly onTimeout?: "kill" | "pause" | undefined;
  readonly idleTimeoutMs?: number | null | undefined;
  readonly maxRunMs?: number | null | undefined;
}

export interface Due {
  readonly action: "kill" | "pause";
  readonly rule: "timeout" | "idle timeout" | "maximum running time";
  readonly atMs: number;
}

/** LIMIT: the least that is left of a timeout at a resume; less would end it before it is used. */
const leftMsMin = 1_000;

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

/** A run begins. */
export function begin(lifetime: Lifetime, nowMs: number): Lifetime {
  const { leftMs } = lifetime;
  if (leftMs === null) return lifetime;
  return { ...lifetime, endAtMs: nowMs + Math.max(leftMs, leftMsMin), leftMs: null };
}

/** The run that began at `startedAtMs` is over. */
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

/** Sets the timeout anew, shorter or longer; null takes it away. */
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

/** Gives a running sandbox at least this long from now; null: for ever. Never takes time away. */
export function extend(lifetime: Lifetime, timeoutMs: number | null, nowMs: number): Lifetime {
  if (timeoutMs === null) return { ...lifetime, endAtMs: null };
  if (lifetime.endAtMs === null) return lifetime;
  return { ...lifetime, endAtMs: Math.max(lifetime.endAtMs, nowMs + timeoutMs) };
}

/** Whether nothing ends it by the clock. */
export function isEndless({ endAtMs, leftMs }: Lifetime): boolean {
  return endAtMs === null && leftMs === null;
}

/** What happens first to a running sandbox, if anything ever does. */
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
