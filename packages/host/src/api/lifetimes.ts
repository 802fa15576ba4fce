/**
 * The lifetime that a request asks for: E2B's `timeout` in seconds and `autoPause`, and Torpor's
 * own `timeoutMs`, `idleTimeoutMs` and `maxRunMs`, where null means never.
 *
 * The defaults differ between the generations of E2B's routes. The owner sets the longest
 * `timeout`; "never" is Torpor's own and not a number, so it is always allowed.
 */
import { type JsonObject, TorporError, optional, parseBoolean, parseInteger } from "@torpor/std";
import { type Lifetime, type LifetimeRequest, isEndless } from "../lifecycle/lifetime.ts";

/** Timeouts of requests that name none, in milliseconds, by generation of the route. */
export const defaultTimeoutMs = { v1: 15_000, v2: 300_000 } as const;
/** A generation of E2B's routes; they differ in defaults. */
export type Generation = keyof typeof defaultTimeoutMs;

/** LIMIT: ten years; more is "never". */
const msMax = 10 * 365 * 24 * 60 * 60 * 1000;

/** Parses the lifetime in a body that creates a sandbox. @throws argument.invalid */
export function parseLifetime(
  body: JsonObject,
  defaultMs: number,
  timeoutMsMax: number,
): LifetimeRequest {
  const timeoutMs = parseTimeout(body, timeoutMsMax);
  if (timeoutMs === 0) throw new TorporError("argument.invalid", "timeout must be greater than 0");
  return {
    timeoutMs: timeoutMs === undefined ? defaultMs : timeoutMs,
    onTimeout: parseOnTimeout(body),
    idleTimeoutMs: parseMs(body, "idleTimeoutMs"),
    maxRunMs: parseMs(body, "maxRunMs"),
  };
}

/**
 * Parses `timeout` or `timeoutMs`, into milliseconds; null: never; undefined: neither is given.
 * @throws argument.invalid
 */
export function parseTimeout(body: JsonObject, timeoutMsMax: number): number | null | undefined {
  const { timeout } = body;
  const ownMs = parseMs(body, "timeoutMs");
  if (timeout !== undefined && ownMs !== undefined) {
    throw new TorporError("argument.invalid", "timeout and timeoutMs exclude each other");
  }
  const timeoutMs = timeout === undefined ? ownMs : parseSeconds(timeout) * 1000;
  if (typeof timeoutMs === "number" && timeoutMs > timeoutMsMax) {
    const hours = timeoutMsMax / 3_600_000;
    throw new TorporError("argument.invalid", `timeout must be at most ${hours} hours`);
  }
  return timeoutMs;
}

/**
 * Parses the timeout in a body that connects to a sandbox; undefined leaves the lifetime as it is.
 * If the body names none, the generation's default applies, except to a sandbox that never ends;
 * `keepTimeout` keeps the time that was left.
 * @throws argument.invalid
 */
export function parseConnectTimeout(
  body: JsonObject,
  generation: Generation,
  timeoutMsMax: number,
  lifetime: Lifetime,
): number | null | undefined {
  const timeoutMs = parseTimeout(body, timeoutMsMax);
  const keep = optional(body["keepTimeout"], parseBoolean, "keepTimeout") ?? false;
  if (keep && timeoutMs !== undefined) {
    throw new TorporError("argument.invalid", "keepTimeout and a timeout exclude each other");
  }
  if (keep) return undefined;
  if (timeoutMs !== undefined) {
    if (timeoutMs !== 0 || generation === "v1") return timeoutMs;
    throw new TorporError("argument.invalid", "timeout must be greater than 0");
  }
  if (generation === "v1") throw new TorporError("argument.invalid", "timeout is missing");
  return isEndless(lifetime) ? undefined : defaultTimeoutMs.v2;
}

/** Parses `autoPause`: the action at the timeout; undefined: not given. @throws argument.invalid */
export function parseOnTimeout(body: JsonObject): "pause" | "kill" | undefined {
  const autoPause = optional(body["autoPause"], parseBoolean, "autoPause");
  return autoPause === undefined ? undefined : autoPause ? "pause" : "kill";
}

function parseSeconds(value: unknown): number {
  return parseInteger(value, "timeout", 0, msMax / 1000);
}

/** Undefined if the field is absent; null counts as given. */
function parseMs(body: JsonObject, name: string): number | null | undefined {
  const value = body[name];
  return value === undefined || value === null ? value : parseInteger(value, name, 0, msMax);
}
