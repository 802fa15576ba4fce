/**
 * How long a sandbox shall live, as a request says it: E2B's `timeout` in seconds and `autoPause`, and
 * our own `timeoutMs`, `idleTimeoutMs` and `maxRunMs`, where null means never.
 */
import { type JsonObject, TorporError, optional, parseBoolean, parseInteger } from "@torpor/std";
import type { LifetimeRequest } from "./lifecycle/lifetime.ts";

/** LIMIT: ten years; more is "never". */
const msMax = 10 * 365 * 24 * 60 * 60 * 1000;

/** @throws argument.invalid */
export function parseLifetime(body: JsonObject): LifetimeRequest {
  if (body["timeout"] !== undefined && body["timeoutMs"] !== undefined) {
    throw new TorporError("argument.invalid", "timeout and timeoutMs exclude each other");
  }
  const autoPause = optional(body["autoPause"], parseBoolean, "autoPause");
  const seconds = optional(body["timeout"], parseSeconds, "timeout");
  return {
    timeoutMs: seconds === undefined ? parseMs(body, "timeoutMs") : seconds * 1000,
    onTimeout: autoPause === undefined ? undefined : autoPause ? "pause" : "kill",
    idleTimeoutMs: parseMs(body, "idleTimeoutMs"),
    maxRunMs: parseMs(body, "maxRunMs"),
  };
}

function parseSeconds(value: unknown, what: string): number {
  return parseInteger(value, what, 0, msMax / 1000);
}

/** Undefined when it is not said; null is said. */
function parseMs(body: JsonObject, name: string): number | null | undefined {
  const value = body[name];
  return value === undefined || value === null ? value : parseInteger(value, name, 0, msMax);
}
