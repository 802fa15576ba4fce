/**
 * The header `Idempotency-Key`, as in the IETF draft of that name: a request that is repeated with
 * its key takes effect once.
 *
 * The key is used as it is, quotes included. Method, path, query, `Torpor-Epoch` and body identify
 * the request it belongs to; white space between the tokens of the JSON body does not count.
 *
 * @see https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
 */
import { createHash } from "node:crypto";
import { TorporError } from "@torpor/std";
import type { KeyedRequest } from "../records/idempotency-records.ts";
import { type ApiRequest, type Route, epochHeader } from "./route.ts";

/** Name of the header. */
export const idempotencyHeader = "idempotency-key";
/** LIMIT: characters of a key. */
export const keyCharsMax = 255;
const keyPattern = /^[\x20-\x7e]+$/;

/**
 * The key of a request with a fingerprint of the request; undefined if no key was sent, or the
 * route needs none.
 * @throws argument.invalid, operation.unimplemented
 */
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
