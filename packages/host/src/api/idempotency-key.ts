/**
 * The header `Idempotency-Key`, by the IETF's draft of that name: with a key, a request that is sent
 * again takes effect once.
 *
 * The key is taken as it stands, quotes included. Which request it belongs to is told by method, path,
 * query, `Torpor-Epoch` and body; spaces between the parts of its JSON do not count.
 *
 * @see https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
 */
import { createHash } from "node:crypto";
import { TorporError } from "@torpor/std";
import type { KeyedRequest } from "../records/idempotency-records.ts";
import { type ApiRequest, type Route, epochHeader } from "./route.ts";

export const idempotencyHeader = "idempotency-key";
export const keyCharsMax = 255;
const keyPattern = /^[\x20-\x7e]+$/;

/** Undefined where no key was sent, or none is needed. @throws argument.invalid, operation.unimplemented */
export function keyedRequestOf(
  { method, path, onRepeat }: Route,
  caller: string,
  { params, query, body, headers }: Omit<ApiRequest, "keyed">,
): KeyedRequest | undefined {
  const key = headers[idempotencyHeader];
  if (key === undefined || onRepeat === undefined) return undefined;
  if (onRepeat === "again") {
    throw new TorporError(
      "operation.unimplemented",
      "what this makes is shown once and not kept, so no repeat could be answered with it",
      { advice: "Leave Idempotency-Key out." },
    );
  }
  if (typeof key !== "string" || key.length > keyCharsMax || !keyPattern.test(key)) {
    throw new TorporError(
      "argument.invalid",
      `Idempotency-Key is not 1 to ${keyCharsMax} printable characters of ASCII`,
    );
  }
  const asked = [method, path, params, query, headers[epochHeader] ?? null, body ?? null];
  const requestSha256 = createHash("sha256").update(JSON.stringify(asked)).digest("hex");
  return { caller, key, requestSha256 };
}
