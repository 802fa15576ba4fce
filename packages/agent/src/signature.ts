/**
 * Signed links to files: a path, the operation it permits, and optionally an expiry, signed with
 * the sandbox's token. COMPAT: the hashed text is the one that E2B clients hash.
 */
import { createHash } from "node:crypto";
import { sameSecret } from "./identity.ts";

/** A request by a signed link, as its query has it. */
export interface SignedRequest {
  readonly path: string;
  readonly operation: "read" | "write";
  /** From the query; empty when it names none. */
  readonly username: string;
  readonly signature: string;
  /** Seconds since 1970, verbatim; undefined: the link does not expire. */
  readonly expiration: string | undefined;
}

/** Why the signature is not valid, or undefined if it is. */
export function signatureProblem(
  request: SignedRequest,
  accessToken: string,
  nowMs: number,
): string | undefined {
  const expected = sign(request, accessToken);
  if (!sameSecret(expected, request.signature)) return "invalid signature";
  if (request.expiration === undefined) return undefined;
  if (!/^\d{1,15}$/.test(request.expiration)) return "invalid signature expiration";
  const expired = Number(request.expiration) < Math.floor(nowMs / 1000);
  return expired ? "signature is already expired" : undefined;
}

/** The signature of a link: `v1_` and the SHA-256 in base64 without padding. */
export function sign(request: Omit<SignedRequest, "signature">, accessToken: string): string {
  const { path, operation, username, expiration } = request;
  const parts = [path, operation, username, accessToken];
  if (expiration !== undefined) parts.push(expiration);
  const digest = createHash("sha256").update(parts.join(":"), "utf8").digest("base64");
  return `v1_${digest.replace(/=+$/, "")}`;
}
